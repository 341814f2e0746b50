// What a mixture over adapters answers (RUN/mixture, left by trainers/language/adapter_mixture.cpp), where the tools take a run.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "engine/generation/generator.h"
#include "policies/language/adapter_mixture/mixture.h"
#include "trainers/language_tools.h"

namespace trimtab {

// Of a run that trained one, over its base; nullopt when there is none. DataError naming the file for a damaged one.
std::optional<AdapterMixture> mixture_of(const ModelChoice& run, const Transformer& base);

// The likeliest reply to each request, in their order: one sample each and no log-probabilities. `max_tokens`: of requests that have no limit of their own.
std::vector<Completion> complete_with_mixture(const AdapterMixture& mixture, std::span<const GenerationRequest> requests, int64_t max_tokens, const StopRules& stop,
                                              const std::function<void(int64_t tokens, int64_t finished)>& progress);

}  // namespace trimtab
