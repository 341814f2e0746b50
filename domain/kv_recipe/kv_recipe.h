// The KV-precision recipe: which widths the keys and values of a model's KV cache are kept at, per layer or per layer and KV head, with
// all that is needed to apply it again: the quantiser, the tokens that stay at 16 bits, the model it was searched for.
//
// JSON, UTF-8, at most 4 MiB:
//
//   {"kv_recipe_version": 1,
//    "name": "...", "created_by": "...",                                              optional free text
//    "model": {"hash": "9f2c...", "layers": 30, "kv_heads": 3, "head_dim": 64},
//    "quantiser": {"page_tokens": 64, "key_groups": "channel", "value_group": 0, "symmetric": false, "key_norm": false,
//                  "value_channel_scale": false, "hadamard_keys": true, "hadamard_values": true},   kernels/kv_pack/kv_format.h
//    "sinks": 4, "tail": 64,
//    "measured": {"bits_per_element": 4.31, "kl_to_16bit": 0.0021},                   optional, each of them too
//    "bits": [[8, 4], [4, 2], ...]}              [keys, values] per layer, or [[[8, 4], [4, 4], [8, 8]], ...] per layer and KV head
//
// A width is 16, 8, 4 or 2; [0, 0] is evicted. Reading is strict: an unknown, missing or repeated key, a wrong type, a number out of
// range, counts that disagree with the model are a DataError "FILE: /json/pointer: what is wrong; what was expected".
// Background: KVTuner (arXiv 2502.04420), KIVI (2402.02750), StreamingLLM's sinks (2309.17453). Other programs' formats: formats.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/kv_pack/kv_format.h"

namespace trimtab {

struct KvRecipe {
  static constexpr int64_t kVersion = 1;
  static constexpr size_t kMaxBytes = size_t{4} << 20;   // of a file

  struct Model {
    std::string hash;   // of the weights: 8 to 128 lower-case hex digits
    int64_t layers = 0, kv_heads = 0, head_dim = 0;
    bool operator==(const Model&) const = default;
  };

  std::string name, created_by;   // UTF-8, one line each, at most 1000 bytes; empty: left out
  Model model;
  KvQuantiser quantiser;
  int64_t page_tokens = 64;                              // tokens that are packed together
  bool hadamard_keys = false, hadamard_values = false;   // rows rotated before packing (kernels/hadamard)
  int64_t sinks = 0;                                     // tokens at the front that stay at 16 bits
  int64_t tail = 0;                                      // tokens at the end that stay at 16 bits, at most
  std::vector<KvBits> bits;                              // [layers] or [layers, kv_heads]
  std::optional<double> bits_per_element;                // measured: mean bits of a number, scales, sinks and tail included
  std::optional<double> kl_to_16bit;                     // measured: mean KL divergence of the next-token distribution, nats per token

  bool per_head() const { return model.kv_heads > 1 && static_cast<int64_t>(bits.size()) == model.layers * model.kv_heads; }
  KvBits at(int64_t layer, int64_t head) const { return bits[per_head() ? layer * model.kv_heads + head : layer]; }
  bool operator==(const KvRecipe&) const = default;
};

std::vector<KvBits> recipe_widths(const KvRecipe& recipe);   // of every KV head, [layers * kv_heads]

// DataError "WHAT: /place: fault" when a number is out of range or the parts do not go together.
void check_recipe(const KvRecipe& recipe, const std::string& what);
// DataError naming both sides when the recipe was made for a model of another shape or with other weights.
void check_recipe_fits(const KvRecipe& recipe, int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& model_hash);

KvRecipe read_kv_recipe(const std::filesystem::path& file);
KvRecipe parse_kv_recipe(const std::string& json, const std::string& file);   // `file` stands for it in messages
std::string kv_recipe_json(const KvRecipe& recipe);                           // checks the recipe first; parses back to an equal one
// The old file or the new one, never half of it. DataError for a faulty recipe, CheckpointError when the disk refuses.
void write_kv_recipe(const KvRecipe& recipe, const std::filesystem::path& file);

}  // namespace trimtab
