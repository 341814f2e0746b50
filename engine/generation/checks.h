// What can be wrong with a call of generate().
#pragma once

#include <span>

#include "engine/generation/generator.h"

namespace trimtab {

// ConfigError for a masked diffusion model, which is not written with from left to right.
void check_causal(const TransformerConfig& config);
// ConfigError for sampling options and stop rules that cannot be, DataError for requests (generator.h).
void check_sampling(const SamplingOptions& sampling);
void check_stop(const StopRules& stop, const TransformerConfig& config);
void check_requests(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, const TransformerConfig& config);

inline int64_t max_tokens_of(const GenerationRequest& request, const SamplingOptions& sampling) {
  return request.max_tokens > 0 ? request.max_tokens : sampling.max_tokens;
}

}  // namespace trimtab
