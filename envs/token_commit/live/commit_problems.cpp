#include "envs/token_commit/live/commit_problems.h"

#include <algorithm>

#include "core/error.h"
#include "envs/token_commit/agent_commit.h"
#include "envs/token_commit/comparison.h"
#include "envs/token_commit/learn2pd.h"

namespace trimtab {

std::vector<int32_t> commit_prompt(const LanguageModel& model, const FileProblem& p, const std::string& file, const TokenCommitOptions& options) {
  std::vector<int32_t> ids = model.tokenizer->encode(p.problem.prompt, {.allow_special = false, .add_special_tokens = true});
  check_room(ids, model, options, fmt::format("{}:{}", file, p.line), options.longest > 0 ? " or lower env.longest" : " or lower env.length");
  const auto mask = static_cast<int32_t>(model.transformer->config().diffusion.mask_id);
  if (const auto at = std::find(ids.begin(), ids.end(), mask); at != ids.end())
    throw DataError(fmt::format("{}:{}: the prompt holds the mask token {} at {}: only the answer is masked, so take it out", file, p.line, mask, at - ids.begin()));
  return ids;
}

void check_room(const std::vector<int32_t>& prompt, const LanguageModel& model, const TokenCommitOptions& options, const std::string& place, const std::string& cure) {
  if (prompt.empty()) throw DataError(fmt::format("{}: the prompt has no tokens", place));
  const int64_t length = options.most_tokens(), positions = model.transformer->config().max_positions, needed = std::ssize(prompt) + length;
  if (needed > positions)
    throw DataError(fmt::format("{}: prompt and an answer of {} tokens take {} positions, the model has {}: shorten the prompt{}", place, length, needed, positions, cure));
}

void check_windows(const LanguageModel& model, const TokenCommitOptions& o) {
  const int64_t block = model.transformer->config().diffusion.block;
  const bool fits = o.window == "sliding" || (o.window == "block" ? block % std::max<int64_t>(1, o.block) == 0 : o.most_tokens() <= block);
  if (block > 0 && !fits)
    throw ConfigError(fmt::format("the model fills in blocks of {} tokens, each behind clean ones, and windows are {}: set env.window=block env.block={}", block,
                                  o.window == "block" ? fmt::format("blocks of {}", o.block) : "whole answers", block));
}

CommitRuleOptions rule_options(const TokenCommitOptions& options, const Tokenizer& tokenizer) {
  CommitRuleOptions out;
  out.window = std::min(options.width, options.length);
  for (const std::string& text : options.delimiters) {
    const std::vector<int32_t> ids = tokenizer.encode(text, {.allow_special = false});
    if (ids.size() != 1) throw ConfigError(fmt::format("the delimiter '{}' is {} tokens to the model, but must be one: name one such as '.'", text, ids.size()));
    out.delimiters.push_back(ids[0]);
  }
  if (!options.filter.empty()) out.filter = std::make_shared<const Learn2PdFilter>(Learn2PdFilter::load(options.filter));
  return out;
}

std::unique_ptr<CommitControl> commit_control(const TokenCommitOptions& options, const LanguageModel& model, const std::string& rule, const AgentFactory& agents, uint64_t seed) {
  if (agents) return std::make_unique<AgentCommit>(options, model.transformer->config().hidden_size, agents());
  CommitRuleOptions rules = rule_options(options, *model.tokenizer);
  rules.seed = seed;
  auto control = make_commit_rule(rule, rules);
  const std::string wanted = options_of(options, {.rule = rule}).window;
  if (wanted != options.window) throw ConfigError(fmt::format("windows of the rule {} are {}: set env.window={}, or take another", rule, wanted == "block" ? "blocks" : "sliding", wanted));
  return control;
}

double score_completion(const LanguageModel& model, const FileProblem& problem, const DiffusionCompletion& completion, const std::vector<std::string>& stop) {
  return score_reply(problem.problem, model.tokenizer->decode(completion.tokens, {.skip_special = true}), stop);
}

DiffusionOptions engine_options(const TokenCommitOptions& o) {
  DiffusionOptions d;
  d.max_sequences = 1, d.length = o.length, d.window = o.window, d.block = o.block, d.width = std::min(o.width, o.length), d.passes = o.passes, d.cache = o.cache;
  d.refresh = o.refresh, d.drift_threshold = o.drift_threshold, d.neighbourhood = o.neighbourhood;
  d.adapt.adapt = o.longest > 0, d.adapt.longest = o.most_tokens();
  d.eos_guard = o.eos_guard, d.finish_early = o.finish_early, d.divergence = false;
  return d;
}

DiffusionOptions batch_options(const TokenCommitOptions& options, const std::string& rule, const AgentFactory& agents) {
  constexpr int64_t kAtOnce = 32;
  DiffusionOptions d = engine_options(options);
  d.max_sequences = kAtOnce, d.divergence = true, d.beyond = !agents && looks_ahead(rule) ? -1 : 0, d.hidden = agents && options.projected > 0;
  return d;
}

}  // namespace trimtab
