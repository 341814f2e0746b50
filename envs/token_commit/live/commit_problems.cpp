#include "envs/token_commit/live/commit_problems.h"

#include <algorithm>

#include "core/error.h"
#include "envs/token_commit/comparison.h"

namespace trimtab {

std::vector<int32_t> commit_prompt(const LanguageModel& model, const FileProblem& p, const std::string& file, int64_t length) {
  std::vector<int32_t> ids = model.tokenizer->encode(p.problem.prompt, {.allow_special = false, .add_special_tokens = true});
  const int64_t positions = model.transformer->config().max_positions, needed = static_cast<int64_t>(ids.size()) + length;
  if (needed > positions)
    throw DataError(fmt::format("{}:{}: prompt and an answer of {} tokens take {} positions, the model has {}: shorten the prompt or lower env.length", file, p.line, length, needed,
                                positions));
  if (ids.empty()) throw DataError(fmt::format("{}:{}: the prompt has no tokens", file, p.line));
  return ids;
}

double score_completion(const LanguageModel& model, const FileProblem& problem, const DiffusionCompletion& completion, const std::vector<std::string>& stop) {
  return score_reply(problem.problem, model.tokenizer->decode(completion.tokens, {.skip_special = true}), stop);
}

DiffusionOptions engine_options(const TokenCommitOptions& o) {
  DiffusionOptions d;
  d.max_sequences = 1, d.length = o.length, d.window = o.window, d.block = o.block, d.width = std::min(o.width, o.length), d.passes = o.passes, d.cache = o.cache;
  d.eos_guard = o.eos_guard, d.finish_early = o.finish_early, d.divergence = false;
  return d;
}

}  // namespace trimtab
