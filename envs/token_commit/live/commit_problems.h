// Problems as a model that decodes meets them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "domain/tasks/jsonl.h"
#include "engine/diffusion/diffusion_generator.h"
#include "envs/evaluation.h"
#include "envs/token_commit/options.h"
#include "envs/token_commit/rules.h"
#include "policies/language/pretrained.h"

namespace trimtab {

// A prompt's tokens. DataError "file:line" for one that is empty, holds the mask token, or is too long beside an answer.
std::vector<int32_t> commit_prompt(const LanguageModel& model, const FileProblem& problem, const std::string& file, const TokenCommitOptions& options);
// 1 when the reply that a completion holds answers the problem (comparison.h).
double score_completion(const LanguageModel& model, const FileProblem& problem, const DiffusionCompletion& completion, const std::vector<std::string>& stop);
// What rules need of the model's tokens and of files. ConfigError for a delimiter that is no single token.
CommitRuleOptions rule_options(const TokenCommitOptions& options, const Tokenizer& tokenizer);
// DataError "PLACE: ..." for a prompt of no tokens, or too long beside an answer; `cure` ends the sentence.
void check_room(const std::vector<int32_t>& prompt, const LanguageModel& model, const TokenCommitOptions& options, const std::string& place, const std::string& cure);
// ConfigError for windows that a model of block diffusion (config.diffusion.block) was not trained for.
void check_windows(const LanguageModel& model, const TokenCommitOptions& options);
// Who commits: the agents where there are some, else the rule. ConfigError for a rule whose windows are not those of `options`.
std::unique_ptr<CommitControl> commit_control(const TokenCommitOptions& options, const LanguageModel& model, const std::string& rule, const AgentFactory& agents, uint64_t seed);
// The engine's options for answers as `env` describes them; one answer at a time, no divergence and no hidden states.
DiffusionOptions engine_options(const TokenCommitOptions& options);
// Many answers at a time, with what commit_control's rule or agents look at.
DiffusionOptions batch_options(const TokenCommitOptions& options, const std::string& rule, const AgentFactory& agents);

}  // namespace trimtab
