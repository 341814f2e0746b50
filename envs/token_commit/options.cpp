#include "envs/token_commit/options.h"

#include "core/error.h"

namespace trimtab {

void SyntheticCommitOptions::describe(Fields& f) {
  f.integer("vocab", vocab, {.low = 4, .high = 1e4, .doc = "tokens there are"});
  f.number("depends", depends, {.low = 0, .high = 8, .doc = "tokens that a token depends on, mean"});
  f.number("certain", certain, {.low = 0, .high = 1, .doc = "how much confidence tells of what a proposal is worth"});
}

void TokenCommitOptions::describe(Fields& f) {
  f.choice("mode", mode, {"live", "synthetic"}, "live: a model decodes problems, the data; synthetic: made-up answers whose tokens depend on each other");
  f.text("model", model, {.doc = "a masked diffusion model: a run or a Hugging Face folder"});
  f.integer("length", length, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of the answer's canvas, ending and padding included"});
  f.integer("longest", longest, {.low = 0, .high = 1e6, .unit = "tokens", .doc = "the canvas grows and shrinks with the share of endings proposed (rho-EOS), from length up to this; 0: it stays"});
  f.choice("window", window, {"full", "block", "sliding"}, "which positions are decided at a time; adablock's windows are blocks, those of dcd and wedlm slide");
  f.integer("block", block, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of a window, where windows are blocks"});
  f.integer("width", width, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of a window that slides; masks in a window of dcd"});
  f.integer("passes", passes, {.low = 0, .high = 1e6, .unit = "passes", .doc = "that schedules (quota, klass) plan for an answer; 0: one token in each"});
  f.choice("cache", cache, {"none", "prefix", "dual", "delayed", "drift"}, "whose keys and values are kept from pass to pass; none is exact");
  f.integer("refresh", refresh, {.low = 0, .high = 1e6, .unit = "passes", .doc = "after which a cache computes everything anew; 0: never for that reason"});
  f.number("drift_threshold", drift_threshold, {.low = -1, .high = 1, .doc = "of cache drift: the cosine under which everything is computed anew"});
  f.integer("neighbourhood", neighbourhood, {.low = 0, .high = 1e6, .unit = "rows", .doc = "beside the window that cache drift computes in every pass"});
  f.flag("eos_guard", eos_guard, "every rule commits an ending only once nothing left of it is masked");
  f.flag("finish_early", finish_early, "an ending with nothing masked left of it ends the answer; false: every mask is filled");
  f.number("temperature", temperature, {.low = 0, .high = 10, .doc = "of proposals; 0: the likeliest token"});
  f.texts("stop", stop, {.doc = "a reply is read up to the first of these"});
  f.choice("action", action, {"subset", "order"}, "the commit agent says of every masked position whether it is committed, or names up to `picks` of them in order");
  f.integer("items", items, {.low = 1, .high = 1024, .doc = "masked positions that agents see: the first so many of the window"});
  f.integer("projected", projected, {.low = 0, .high = 256, .doc = "numbers of each position's hidden state that they see; 0: none"});
  f.integer("codes", codes, {.low = 0, .high = 64, .doc = "numbers that stand for the token proposed at each position, so that they see whether proposals agree; 0: none"});
  f.integer("places", places, {.low = 0, .high = 16, .doc = "pairs of sine and cosine of each position in the answer, of periods 4, 8, 16, ... tokens; 0: none"});
  f.integer("committed", committed, {.low = 0, .high = 1024, .unit = "tokens", .doc = "that stand already, the nearest to the masks, that agents see beside what is proposed; 0: none"});
  f.integer("picks", picks, {.low = 1, .high = 1024, .doc = "that action order makes in a pass"});
  f.integer("most", most, {.low = 0, .high = 1024, .unit = "tokens", .doc = "that action subset commits in a pass at most; 0: all"});
  f.flag("planned", planned, "action subset commits at least what the plan of `passes` asks for, by the model's confidence (TraceLock's union with the quota)");
  f.number("threshold", threshold, {.low = 1e-6, .high = 1, .doc = "from which probability on action subset commits, where it is not drawn"});
  f.flag("decide_window", decide_window, "an agent chooses the length of a window that opens");
  f.text("windows", windows, {.doc = "lengths to choose from, rising"});
  f.flag("decide_refresh", decide_refresh, "an agent chooses what the next pass computes anew; needs a cache");
  f.choice("reward", reward, {"product", "sum"}, "product: correct times the share of passes saved to the power alpha; sum: correct less pass_price times the share of passes used");
  f.number("alpha", alpha, {.low = 0, .high = 16, .doc = "of reward product"});
  f.number("pass_price", pass_price, {.low = 0, .high = 100, .doc = "of reward sum"});
  f.number("stability", stability, {.low = 0, .high = 100, .doc = "paid in every pass for what is committed as one token a pass would, less for what is not; 0: none"});
  f.integer("budget", budget, {.low = 0, .high = 1e6, .unit = "passes", .doc = "an answer that takes more is worth nothing; 0: any number"});
  f.integer("least_budget", least_budget, {.low = 0, .high = 1e6, .unit = "passes", .doc = "training: every answer's budget is drawn from this to budget, and agents see what is left of it: one controller for any; 0: all have budget"});
  f.flag("both_guards", both_guards, "evaluation: every rule without the guard too, as NAME+noguard; else top1, threshold_90 and factor_100 alone");
  f.texts("rules", rules, {.doc = "evaluation: names as in threshold_90; empty: all there are, at their published numbers and around them"});
  f.texts("delimiters", delimiters, {.doc = "texts of one token that end a window of adablock; empty: no adablock"});
  f.numbers("thresholds", thresholds, {.low = 1e-6, .high = 1, .doc = "evaluation: the learned controller at these too, as learned_90 for 0.9"});
  f.text("filter", filter, {.doc = "evaluation: a filter of `trimtab fit learn2pd`, which adds the rules learn2pd_T"});
  f.block("synthetic", synthetic, "mode synthetic");
}

TokenCommitOptions token_commit_options(const Config& config) {
  TokenCommitOptions options;
  config.read(options, {"type"});
  return options;
}

CommitViewOptions commit_view_options(const TokenCommitOptions& o, int64_t hidden_size) {
  return {.items = o.items, .projected = o.projected, .hidden_size = o.projected > 0 ? hidden_size : 0, .codes = o.codes, .places = o.places, .committed = o.committed,
          .budgets = o.least_budget > 0};
}

void TokenCommitOptions::validate() const {
  if (mode == "live" && model.empty()) throw ConfigError("token_commit needs a masked diffusion model: env.model=RUN, or a Hugging Face folder");
  const bool blocks = window == "block" || !delimiters.empty();   // adablock's are
  if (blocks && block > length) throw ConfigError(fmt::format("block = {} is longer than length = {}: make block smaller", block, length));
  if (blocks && length % block != 0) throw ConfigError(fmt::format("length = {} is no multiple of block = {}: make it one", length, block));
  if (window == "sliding" && width > length) throw ConfigError(fmt::format("width = {} is beyond length = {}: a window lies within the answer", width, length));
  if (longest > 0 && longest < length) throw ConfigError(fmt::format("longest = {} is shorter than length = {}, where answers begin: raise it, or set it to 0", longest, length));
  if (passes > length) throw ConfigError(fmt::format("passes = {} for {} tokens: a pass commits one token at least, so give {} or fewer", passes, length, length));
  if (least_budget > budget) throw ConfigError(fmt::format("least_budget = {} is above budget = {}: budgets are drawn from the first to the second", least_budget, budget));
  if (planned && (passes == 0 || action != "subset")) throw ConfigError("planned keeps to a plan of passes with action subset: set passes, or leave planned off");
  if (both_guards && !eos_guard) throw ConfigError("both_guards compares with and without the guard: leave eos_guard on");
  if (decide_refresh && cache == "none") throw ConfigError("decide_refresh decides about a cache: set cache to prefix, dual, delayed or drift");
  if (decide_window && window == "full") throw ConfigError("decide_window decides about windows: set window to block or sliding");
  for (const std::string& text : stop)
    if (text.empty()) throw ConfigError("stop holds an empty text, which every reply begins with: leave it out");
}

}  // namespace trimtab
