#include "envs/token_commit/options.h"

#include "core/error.h"

namespace trimtab {

void TokenCommitOptions::describe(Fields& f) {
  f.text("model", model, {.doc = "a masked diffusion model: a run or a Hugging Face folder"});
  f.integer("length", length, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of the answer's canvas, ending and padding included"});
  f.choice("window", window, {"full", "block", "sliding"}, "which positions are decided at a time; adablock's windows are blocks, those of dcd and wedlm slide");
  f.integer("block", block, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of a window, where windows are blocks"});
  f.integer("width", width, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of a window that slides; masks in a window of dcd"});
  f.integer("passes", passes, {.low = 0, .high = 1e6, .unit = "passes", .doc = "that schedules (quota, klass) plan for an answer; 0: one token in each"});
  f.choice("cache", cache, {"none", "prefix", "dual", "delayed", "drift"}, "whose keys and values are kept from pass to pass; none is exact");
  f.flag("eos_guard", eos_guard, "every rule commits an ending only once nothing left of it is masked");
  f.flag("both_guards", both_guards, "every rule without that guard too, as NAME+noguard; else top1, threshold_90 and factor_100 alone");
  f.flag("finish_early", finish_early, "an ending with nothing masked left of it ends the answer; false: every mask is filled");
  f.number("temperature", temperature, {.low = 0, .high = 10, .doc = "of proposals; 0: the likeliest token"});
  f.texts("stop", stop, {.doc = "a reply is read up to the first of these"});
  f.texts("rules", rules, {.doc = "names as in threshold_90; empty: all there are, at their published numbers and around them"});
  f.texts("delimiters", delimiters, {.doc = "texts of one token that end a window of adablock; empty: no adablock"});
}

void TokenCommitOptions::validate() const {
  if (model.empty()) throw ConfigError("token_commit needs a masked diffusion model: env.model=RUN, or a Hugging Face folder");
  const bool blocks = window == "block" || !delimiters.empty();   // adablock's are
  if (blocks && block > length) throw ConfigError(fmt::format("block = {} is longer than length = {}: make block smaller", block, length));
  if (blocks && length % block != 0) throw ConfigError(fmt::format("length = {} is no multiple of block = {}: make it one", length, block));
  if (window == "sliding" && width > length) throw ConfigError(fmt::format("width = {} is beyond length = {}: a window lies within the answer", width, length));
  if (passes > length) throw ConfigError(fmt::format("passes = {} for {} tokens: a pass commits one token at least, so give {} or fewer", passes, length, length));
  if (both_guards && !eos_guard) throw ConfigError("both_guards compares with and without the guard: leave eos_guard on");
  for (const std::string& text : stop)
    if (text.empty()) throw ConfigError("stop holds an empty text, which every reply begins with: leave it out");
}

}  // namespace trimtab
