// The plain way to decode a masked diffusion model, for evaluation while it trains: every pass commits one token, the most confident
// proposal (LLaDA's low-confidence remasking with as many steps as tokens, arXiv 2502.09992), without a cache and without a guard against
// early endings; where the model has blocks, one block after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/pool.h"
#include "engine/generation/generator.h"
#include "policies/language/transformer.h"

namespace trimtab {

// Fills in `sampling.max_tokens` masked tokens behind every prompt (engine/diffusion/diffusion_generator.h, which says what it throws). The
// answer ends with its first stop token (Finish::kStop) and is all of the canvas where there is none. A completion holds no
// log-probabilities.
std::vector<Completion> decode_one_token_per_pass(const Transformer& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                                  std::span<const int32_t> stop_ids, uint64_t seed, Pool& pool,
                                                  const std::function<void(int64_t tokens, int64_t finished)>& progress = {});

}  // namespace trimtab
