// What agents that differ by adapters on q and v share of a text: keys and values of the base model, and Z = x A_v of every key for each
// distinct A_v (LRAgent, arXiv 2602.01053). Adapters whose A_v are equal number by number share Z.
//
// Behind the last key stands a mark, by which a query brings in what it has seen elsewhere (its own tokens): heads have one number more,
// 0 in keys and values and 1 in the mark. A query with the logarithm of its other weights' sum in that place gives the mark just that
// weight, and finds the share of it in that place of its result. So one pass of attention_lora joins both pieces exactly.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/generation/region.h"
#include "engine/multi_lora/adapter_table.h"
#include "kernels/lora/lora.h"

namespace trimtab {

class SharedCache {
 public:
  // Of up to `most_tokens` tokens. The adapters' matrices must stay where they are. ConfigError for heads and DataError for an adapter that
  // it can't serve: one that changes more than q and v, or has a greater rank than attention_lora takes.
  SharedCache(const TransformerConfig& config, const AdapterTable& adapters, int64_t most_tokens);

  int64_t head_numbers() const { return head_; }   // head_dim + 1
  int64_t most_tokens() const { return most_tokens_; }
  void write(int64_t layer, int64_t kv_head, int64_t index, const float* key, const float* value);   // [head_dim] each
  // Z of `rows` keys from `first` on, from the layer's normed inputs.
  void write_low_rank(int64_t layer, int64_t first, int64_t rows, const float* x, int64_t x_stride);
  void mark(int64_t index);   // puts the mark there, in all layers
  LoraCache view(int64_t layer, int64_t kv_head) const { return {keys(layer, kv_head), values(layer, kv_head), head_}; }
  // Gives the query what the adapter (-1: none) does to the values of a KV head.
  void adapt(int64_t layer, int64_t kv_head, int32_t adapter, LoraQuery& query) const;

  int64_t token_bytes() const;            // of one token: keys, values with their mark's place, every Z
  int64_t low_rank_bytes() const;         // those of Z among them
  int64_t num_low_rank(int64_t layer) const { return static_cast<int64_t>(layers_[layer].sets.size()); }   // distinct A_v

 private:
  struct LowRank {   // Z of one A_v
    LoraAdapter a;
    float* z = nullptr;   // [capacity, rank]
  };
  struct Value {     // of one adapter
    int64_t set = -1;
    float scale = 0;
    std::vector<float> b;   // [rank][kv_heads * head_numbers]: columns of the mark's place are 0
  };
  struct Layer {
    std::vector<LowRank> sets;
    std::vector<Value> values;   // of each adapter of the table
  };
  void add_adapter(Layer& layer, const LoraAdapter& adapter, const TransformerConfig& config);
  float* keys(int64_t layer, int64_t kv_head) const { return memory_.data() + (layer * kv_heads_ + kv_head) * 2 * capacity_ * head_; }
  float* values(int64_t layer, int64_t kv_head) const { return keys(layer, kv_head) + capacity_ * head_; }

  int64_t kv_heads_, head_, most_tokens_, capacity_, hidden_;
  std::vector<Layer> layers_;
  Region memory_;
};

}  // namespace trimtab
