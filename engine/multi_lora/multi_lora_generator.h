// Batched generation in which every sequence has a LoRA adapter of its own, or none: multi-LoRA serving with continuous batching, as in
// Punica (arXiv 2310.18547) and S-LoRA (2311.03285). The base model is computed once for all rows of a step, adapters beside it.
//
// Prompts are read in chunks beside sequences that are being decoded; samples of a request share their prompt's cache. Draws are keyed as
// Generator's, and a row's arithmetic does not depend on the rows beside it: a sequence is the same, bit for bit, whatever adapters and
// requests it shares a batch with and however many threads there are. Without an adapter it is Generator's, bit for bit; with one it is
// that of the merged model up to rounding.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/pool.h"
#include "engine/adapters/adapter_weights.h"
#include "engine/generation/generator.h"

namespace trimtab {

struct AdaptedRequest {
  GenerationRequest request = {};
  const AdapterWeights* adapter = nullptr;   // null: the base model. Must stay where it is until generate() returns
};

// Memory of so many floats for keys and values, aligned to 64 bytes and finite, which stays until generate() returns.
using CacheMemory = std::function<float*(int64_t numbers)>;

class MultiLoraGenerator {
 public:
  // Packs the weights as they are now; norms and embeddings are read in place, so the model must outlive this. ConfigError for a model
  // that carries an adapter itself, a masked diffusion model, or impossible options.
  MultiLoraGenerator(const Transformer& base, GeneratorOptions options, Pool& pool);
  ~MultiLoraGenerator();

  // As Generator::generate, and DataError for an adapter that does not fit the model (adapter_table.h).
  // Caches lie in `caches`, else in memory of the generator's own.
  std::vector<Completion> generate(std::span<const AdaptedRequest> requests, const SamplingOptions& sampling, const StopRules& stop, uint64_t seed, Pool& pool,
                                   const CacheMemory& caches = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
