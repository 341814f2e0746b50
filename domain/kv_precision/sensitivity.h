// How much a model suffers from narrow keys and values, layer by layer (or KV head by KV head): for every unit and pair of widths the KL
// divergence of the next token when that unit alone is packed so and all others stay at 16 bits. Additive, it is the surrogate that
// width searches use (ModelOpt's auto_quantize with a KV-cache cost model; KVTuner, arXiv 2502.04420, prunes pairs by a like measure).
//
// On disk a safetensors file: "kl" f32 [units, pairs] nats per token, "key_bits" and "value_bits" u8 [pairs], "page_bytes" i64 [pairs] of
// one page of one KV head, perhaps "page_ns" f32 [pairs], and in its metadata what it was measured on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/kv_pack/kv_format.h"

namespace trimtab {

struct KvSensitivity {
  int64_t layers = 0, kv_heads = 0, head_dim = 0, page_tokens = 0;
  bool per_head = false;                        // units are KV heads, layer by layer; else layers
  std::vector<KvBits> pairs;
  std::vector<int64_t> page_bytes;              // [pairs]
  std::vector<std::vector<double>> kl;          // [units][pairs], >= 0
  std::vector<double> page_ns;                  // [pairs] attention's time for a page of one KV head where it was measured; may be empty
  std::map<std::string, std::string> measured;  // model_hash, quantiser, text, tokens: what a recipe made from it says

  int64_t units() const { return per_head ? layers * kv_heads : layers; }
  int64_t heads_per_unit() const { return per_head ? 1 : kv_heads; }
  int64_t unit_bytes(int64_t pair) const { return page_bytes[pair] * heads_per_unit(); }      // of one page
  double bits(int64_t bytes) const;                                                           // of all units' pages, per number
  int64_t bytes_at(double bits) const;                                                        // the most that is within `bits`
};

// What it was measured on ("model_hash", "cache", ...); DataError naming the file where it does not say.
const std::string& measured_fact(const KvSensitivity& table, const std::string& name, const std::string& file);

// DataError naming file, tensor and fault: shapes that disagree, a KL that is not finite or below 0, widths that do not exist.
KvSensitivity read_sensitivity(const std::filesystem::path& file);
void write_sensitivity(const KvSensitivity& table, const std::filesystem::path& file);

}  // namespace trimtab
