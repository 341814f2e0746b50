// A model's forward over one sequence whose keys and values lie in a KvCache: for scoring a text token by token and for generating.
//
// Tokens go through in chunks no longer than the cache's room(), each written at 16 bits first; when the tail is full the caller packs
// it (KvCache::pack) and goes on, so what later tokens attend to is what a server with that cache would have. One thread per sequence;
// several sequences share a CachedModel.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/generation/generator.h"
#include "engine/generation/packed_model.h"
#include "engine/kv_cache/kv_cache.h"

namespace trimtab {

// A model's weights as decoding reads them; the Transformer must outlive it.
class CachedModel {
 public:
  CachedModel(const Transformer& model, Pool& pool);
  const PackedModel& packed() const { return packed_; }
  const RopeTable& rope() const { return rope_; }
  const TransformerConfig& config() const { return packed_.config(); }
  KvHeads heads() const { return {config().num_layers, config().num_kv_heads, config().head_dim}; }

 private:
  Region memory_;
  PackedModel packed_;
  RopeTable rope_;
};

class CachedForward {
 public:
  CachedForward(const CachedModel& model, int64_t most_rows);

  // The next tokens of the cache's sequence, at most its room(). With `track` the pages' masses grow and variance() is known.
  // DataError for a position beyond the model's, or a token beyond its vocabulary.
  void run(std::span<const int32_t> tokens, KvCache& cache, bool track = false);
  // Of the last run: unscaled next-token logits [vocab] behind row `row`; RunError when one is not finite.
  std::span<const float> logits(int64_t row) const;
  // Attention's variance over keys in each layer, mean over heads and rows.
  const std::vector<float>& variance() const { return variance_; }

 private:
  void check(std::span<const int32_t> tokens, const KvCache& cache) const;
  void run_layer(int64_t index, int64_t rows, KvCache& cache, bool track);
  float attend(int64_t layer, int64_t rows, KvCache& cache, bool track);

  const CachedModel& model_;
  const TransformerConfig& config_;
  int64_t most_rows_, head_stride_, group_, hidden_stride_, qkv_stride_, mixed_stride_, middle_stride_, logits_stride_;
  std::vector<float> x_, normed_, qkv_, mixed_, middle_, logits_, variance_;
};

// Reads `tokens` into the cache; visit(i, logits) sees the logits behind token i. Whatever is full is packed first.
void score_tokens(CachedForward& forward, std::span<const int32_t> tokens, KvCache& cache, const PackPages& pack,
                  const std::function<void(int64_t, std::span<const float>)>& visit, bool track = false);

// Continues a prompt; draws as the batched Generator does (same seed, key and sample: the same tokens wherever the logits are the same).
Completion generate_cached(const CachedModel& model, const GenerationRequest& request, const SamplingOptions& sampling, const StopRules& stop,
                           uint64_t seed, KvCache& cache, const PackPages& pack);

}  // namespace trimtab
