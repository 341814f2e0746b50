// The plain way to decode a masked diffusion model, for evaluation while it trains: every pass computes the whole canvas and commits one
// token, the most confident proposal (LLaDA's low-confidence remasking with as many steps as tokens, arXiv 2502.09992). No cache, no
// choice of what to commit: engine/diffusion has those, and this is where it is plugged in.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/pool.h"
#include "engine/generation/generator.h"
#include "policies/language/transformer.h"

namespace trimtab {

// The segments of a prompt and an answer of which the first `answer` tokens are there: one root where every row sees all (block 0), else
// the prompt and behind it a block each.
Trie canvas_trie(int64_t prompt, int64_t answer, int64_t block);

// Fills in `sampling.max_tokens` masked tokens behind every prompt; where the model has blocks, one block after the other. temperature 0
// proposes the likeliest token, else one drawn by key (seed, prompt key, sample, position). The mask is never proposed. The answer ends
// with its first stop token (Finish::kStop) and is all of the canvas where there is none. A completion holds no log-probabilities.
std::vector<Completion> decode_one_token_per_pass(const Transformer& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                                  std::span<const int32_t> stop_ids, uint64_t seed, Pool& pool,
                                                  const std::function<void(int64_t tokens, int64_t finished)>& progress = {});

}  // namespace trimtab
