#include "trainers/language/group_options.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {

void ShapingBlock::describe(Fields& f) {
  f.choice("kind", kind, {"outcome", "hierarchical"},
           "outcome: the verifier's, and terms beside it; hierarchical: a format fault is -1 and nothing else, cost counts for right replies alone (Router-R1)");
  f.number("format", format, {.low = 0, .high = 10, .doc = "reward of a well-formed reply, right or wrong"});
  f.number("stop_properly", stop_properly, {.low = 0, .high = 1, .doc = "factor on the reward of a reply that the token limit cut off (DLER: 0.1)"});
  f.integer("overlong_cache", overlong_cache,
            {.low = 0, .high = 1e6, .unit = "tokens", .doc = "over the last so many tokens before the limit the reward falls by up to 1 (DAPO); 0: not"});
  f.flag("filter_truncated", filter_truncated, "replies that were cut off teach nothing (overlong filtering)");
  f.number("cost_share", cost_share, {.low = 0, .high = 1, .doc = "share of a right reply's reward that few tokens earn (hierarchical)"});
  f.number("budget_weight", budget_weight, {.low = 0, .high = 10, .doc = "most that tokens beyond the budget named in the prompt (env.budgets) cost"});
  f.number("budget_softness", budget_softness, {.low = 0.001, .high = 100, .doc = "share of the budget beyond it over which that cost comes to two thirds"});
}

void DifficultyBlock::describe(Fields& f) {
  f.flag("enabled", enabled, "a token limit for each prompt, tighter where it is solved (DA-DLER; the schedule is ours)");
  f.integer("low", low, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "tightest limit; the loosest is sampling.max_tokens"});
  f.number("factor", factor, {.low = 0.1, .high = 0.99, .doc = "a visit that solves more tightens the limit by this"});
  f.number("decay", decay, {.low = 0, .high = 0.99, .doc = "weight of the past in a prompt's solved share"});
}

void CarryOverBlock::describe(Fields& f) {
  f.integer("tokens", tokens, {.low = 0, .high = 1e9, .unit = "tokens", .doc = "new tokens of a rollout, after which open replies wait for the next; 0: all are finished"});
  f.integer("staleness", staleness, {.low = 1, .high = 1000, .unit = "updates", .doc = "a reply that is still open after so many updates is dropped with its group"});
}

void TreeBlock::describe(Fields& f) {
  f.integer("branches", branches, {.low = 2, .high = 1000, .doc = "replies that go on from one beginning at every branching point"});
  f.integer("depth", depth, {.low = 0, .high = 16, .doc = "branching points of a reply; 0: replies are independent"});
  f.numbers("at", at, {.low = 1e-6, .doc = "where replies branch, one number per level, rising: shares of the reply's limit (below 1), or tokens; empty: evenly spaced"});
  f.choice("advantage", advantage, {"reply", "sibling"},
           "reply: one per reply, against its group, so that a stem gets its replies' mean; sibling: one per segment, the mean reward of its replies against its "
           "siblings' (TreeRPO)");
}

void TreeBlock::validate() const {
  if (!enabled() || at.empty()) return;
  if (static_cast<int64_t>(at.size()) != depth) throw ConfigError(fmt::format("tree.at has {} numbers for depth {}; give one per level, or none", at.size(), depth));
  for (size_t i = 0; i < at.size(); ++i) {
    if (i > 0 && at[i] <= at[i - 1]) throw ConfigError(fmt::format("tree.at: {} comes after {}; a reply branches ever later, so give rising numbers", at[i], at[i - 1]));
    if ((at[i] < 1) != (at[0] < 1)) throw ConfigError("tree.at mixes shares (below 1) and tokens; give one kind");
    if (at[i] >= 1 && at[i] != std::floor(at[i])) throw ConfigError(fmt::format("tree.at: {} is no whole number of tokens", at[i]));
  }
}

int64_t TreeBlock::leaves(int64_t levels) const {
  int64_t out = 1;
  for (int64_t i = 0; i < levels; ++i) out = std::min<int64_t>(out * branches, 1 << 30);   // beyond any group_size
  return out;
}

int64_t TreeBlock::branching_point(int64_t level, int64_t limit) const {
  const double where = at.empty() ? static_cast<double>(level + 1) / static_cast<double>(depth + 1) : at[level];
  const double tokens = where < 1 ? where * static_cast<double>(limit) : where;
  return std::clamp<int64_t>(std::llround(tokens), 1, limit);
}

void AsyncBlock::describe(Fields& f) {
  f.integer("staleness", staleness, {.low = 0, .high = 64, .unit = "updates", .doc = "updates that a rollout's weights are behind, made while the learner learns; 0: in turn"});
  f.integer("threads", threads, {.low = 1, .high = 1024, .doc = "of the rollouts, beside those of run.threads"});
}

void GroupOptions::describe(Fields& f) {
  f.integer("steps", steps, {.low = 0, .high = 1e9, .unit = "updates", .doc = "updates to train for, when there are no phases"});
  f.integer("prompts", prompts, {.low = 1, .high = 1e6, .doc = "prompts per update"});
  f.integer("group_size", group_size, {.low = 1, .high = 1e4, .doc = "replies per prompt"});
  f.integer("prompt_pool", prompt_pool, {.low = 0, .high = 1e9, .doc = "train on so many different prompts, again and again; 0: all of a file, always new ones of a suite"});
  f.block("sampling", sampling, "how replies are sampled");
  f.integer("dynamic_sampling", dynamic_sampling,
            {.low = 0, .high = 1000, .doc = "drop groups whose verdicts are all equal and draw others, up to so many batches per update (DAPO); 0: keep all"});
  f.integer("patience", patience, {.low = 1, .high = 1e6, .unit = "updates", .doc = "stop with an error after so many updates in a row without anything to learn from"});
  f.block("carry_over", carry_over, "rollouts that end at a number of tokens");
  f.block("async", async, "rollouts beside learning");
  f.block("tree", tree, "replies that branch");
  f.block("reward", reward, "from verdicts to rewards");
  f.block("difficulty", difficulty, "a token limit for each prompt");
  seams.describe(f);
  f.integer("epochs", epochs, {.low = 1, .high = 100, .doc = "passes over a rollout"});
  f.integer("minibatches", minibatches, {.low = 1, .high = 1e6, .doc = "parts of a rollout per pass, whole groups each"});
  f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size"});
  f.block("schedule", schedule, "the step size over a phase");
  f.block("adam", adam, "the optimiser");
  f.block("guard", guard, "bad numbers and spikes");
  f.number("max_grad_norm", max_grad_norm, {.low = 0, .doc = "largest gradient norm; 0: any"});
  f.flag("shared_prefix", shared_prefix, "compute a group's prompt once; false: once per reply, the same result for more time");
  f.choice("verify_shared_prefix", verify_shared_prefix, {"first", "never", "always"}, "compare the shared with the repeated forward: at the first update, never, at every one");
  f.integer("token_budget", token_budget, {.low = 16, .high = 1e8, .unit = "tokens", .doc = "tokens of a micro-batch: bounds memory; changes results by rounding only"});
  f.integer("shards", shards, {.low = 1, .high = 1024, .doc = "logical parts of an update: part of the result, the number of threads is not"});
  f.flag("checkpoint_activations", checkpoint_activations, "keep a layer's input alone and compute the rest again in the backward: less memory, more time, equal results");
}

void GroupOptions::validate() const {
  seams.validate();
  if (seams.needs_group() && group_size < 2)
    throw ConfigError(fmt::format("advantage '{}' compares the replies of a group; set group_size to 2 or more (or advantage: none)", seams.advantage));
  if (minibatches > prompts) throw ConfigError(fmt::format("minibatches {} is more than prompts {}: every part needs a group", minibatches, prompts));
  if (sampling.temperature <= 0) throw ConfigError("sampling.temperature must be above 0: replies that are all the same teach nothing");
  if (async.staleness > 0 && seams.mismatch.kind == "none")
    throw ConfigError("async.staleness above 0 learns from replies of older weights; set mismatch.kind to icepop, truncate or sequence_mask, which weigh or mask what is too far off");
  if (tree.enabled()) {
    if (group_size % tree.leaves(tree.depth) != 0)
      throw ConfigError(fmt::format("group_size {} is no multiple of tree.branches ^ tree.depth = {}: every stem needs all of its branches", group_size, tree.leaves(tree.depth)));
    if (carry_over.tokens > 0) throw ConfigError("tree and carry_over exclude each other: a reply that waits has no branches yet; set carry_over.tokens to 0");
    if (!tree.at.empty() && tree.at.back() >= static_cast<double>(sampling.max_tokens))
      throw ConfigError(fmt::format("tree.at: {} tokens is not before the end of a reply, sampling.max_tokens {}; branch earlier", tree.at.back(), sampling.max_tokens));
    if (tree.siblings() && seams.smooth()) throw ConfigError("tree.advantage 'sibling' has no past to compare with; use another advantage than 'smooth'");
  }
  if (seams.advantage == "smooth" && dynamic_sampling > 0)
    throw ConfigError("advantage 'smooth' learns from groups with equal verdicts too; leave dynamic_sampling at 0");
}

}  // namespace trimtab
