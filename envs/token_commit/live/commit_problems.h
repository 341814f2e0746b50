// Problems as a model that decodes meets them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "domain/tasks/jsonl.h"
#include "engine/diffusion/diffusion_generator.h"
#include "envs/token_commit/options.h"
#include "policies/language/pretrained.h"

namespace trimtab {

// A prompt's tokens. DataError "file:line" for one that is empty, or too long beside an answer of `length` tokens.
std::vector<int32_t> commit_prompt(const LanguageModel& model, const FileProblem& problem, const std::string& file, int64_t length);
// 1 when the reply that a completion holds answers the problem (comparison.h).
double score_completion(const LanguageModel& model, const FileProblem& problem, const DiffusionCompletion& completion, const std::vector<std::string>& stop);
// The engine's options for answers as `env` describes them; one answer at a time, no divergence and no hidden states.
DiffusionOptions engine_options(const TokenCommitOptions& options);

}  // namespace trimtab
