// Where things lie in a packed page, for the kernels that write and read it: kv_layout() of kv_format.h, whose text is the definition.
#pragma once

#include "kernels/cuda_device/cuda_device.cuh"
#include "kernels/kv_pack/kv_pack_cuda.h"

namespace trimtab {

// Bytes from the page's start; what does not exist has the place of what follows it.
struct KvPartPlaces {
  int codes, scale, zero, extra;   // extra: the keys' norms, the values' channel scales
};
struct KvPlaces {
  KvPartPlaces key, value;
  int used, bytes;   // bytes: `used` up to a multiple of 64
};

__host__ __device__ inline int value_group_of(const KvFormatCuda& f) { return f.value_group == 0 ? f.head_dim : f.value_group; }
__host__ __device__ inline int key_groups_of(const KvFormatCuda& f) { return f.keys_by_token ? f.tokens : f.head_dim; }

__host__ __device__ inline KvPlaces kv_places(const KvFormatCuda& f, int key_bits, int value_bits) {
  const int eighth = f.head_dim / 8 * f.tokens, half = 2;
  const int key_groups = key_bits < 16 ? key_groups_of(f) : 0, value_groups = value_bits < 16 ? f.head_dim / value_group_of(f) * f.tokens : 0;
  KvPlaces p;
  p.key.codes = 0;
  p.value.codes = eighth * key_bits;
  p.key.scale = p.value.codes + eighth * value_bits;
  p.key.zero = p.key.scale + key_groups * half;
  p.key.extra = p.key.zero + (f.symmetric ? 0 : key_groups * half);
  p.value.scale = p.key.extra + (key_groups > 0 && f.key_norm ? f.tokens * half : 0);
  p.value.zero = p.value.scale + value_groups * half;
  p.value.extra = p.value.zero + (f.symmetric ? 0 : value_groups * half);
  p.used = p.value.extra + (value_groups > 0 && f.value_channel_scale ? f.head_dim * half : 0);
  p.bytes = (p.used + 63) / 64 * 64;
  return p;
}

__host__ __device__ inline bool valid(const KvFormatCuda& f, int most_head_dim, int most_tokens) {
  return f.head_dim >= 16 && f.head_dim <= most_head_dim && f.head_dim % 16 == 0 && f.tokens >= 16 && f.tokens <= most_tokens && f.tokens % 16 == 0 &&
         f.value_group >= 0 && f.value_group % 16 == 0 && f.head_dim % value_group_of(f) == 0 && !(f.key_norm && f.keys_by_token);
}

// What code 0 stands for where no zero point is stored, in scales.
__device__ inline float symmetric_offset(int bits) { return static_cast<float>(1 << (bits - 1)); }

}  // namespace trimtab
