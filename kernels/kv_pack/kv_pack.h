// Quantises and packs pages of a KV cache, and reads them back (kv_format.h has the definition and the layout).
//
// Pure functions of the page: the result does not depend on the instruction set, bit for bit. A NaN, an infinity or a number that
// f16 cannot hold makes kv_pack return where it is, with the page's contents undefined; wrong arguments are TT_CHECKs. Thread-safe.
#pragma once

#include <cstdint>

#include "kernels/kv_pack/kv_format.h"

namespace trimtab {

// What packing lost: relative errors |x' - x| / |x| over the page; at 16 bits 0, f16's rounding not counted.
struct KvPackResult {
  float key_error = 0, value_error = 0;
  int64_t bad_token = -1, bad_channel = -1;   // not finite or beyond f16; -1: all were good
  bool bad_value = false;                     // it is a value's, else a key's
};

struct KvPack {
  KvShape shape;
  KvQuantiser quantiser;
  KvBits bits;
  const float* keys = nullptr;     // [shape.tokens, head_dim] at `stride`
  const float* values = nullptr;
  int64_t stride = 0;
  uint8_t* page = nullptr;         // [kv_layout().bytes], aligned to 64
};
KvPackResult kv_pack(const KvPack& pack);

struct KvUnpack {
  KvShape shape;
  KvQuantiser quantiser;
  KvBits bits;
  const uint8_t* page = nullptr;
  float* keys = nullptr;           // [shape.tokens, head_dim] at `stride`; what attention_decode sees
  float* values = nullptr;
  int64_t stride = 0;
};
void kv_unpack(const KvUnpack& unpack);

// Token `index` of a page at 16 bits. False, and nothing written, when a number is not finite or beyond f16.
bool kv_append(const KvShape& shape, int64_t index, const float* key, const float* value, uint8_t* page);

}  // namespace trimtab
