// Keys of `env.live`: the pair of models that decodes in mode live (envs/draft_length/live).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"

namespace trimtab {

struct LiveDraftOptions {
  std::string target, draft;      // runs or Hugging Face folders with one tokenizer
  std::vector<std::string> stop;
  int64_t max_tokens = 128, depth = 12;
  double temperature = 1;
  void describe(Fields& f) {
    f.text("target", target, {.doc = "a run or a Hugging Face folder"});
    f.text("draft", draft, {.doc = "the same, with the target's tokenizer"});
    f.texts("stop", stop, {.doc = "texts that end a reply"});
    f.integer("max_tokens", max_tokens, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "longest reply"});
    f.integer("depth", depth, {.low = 1, .high = 40, .unit = "tokens", .doc = "longest draft"});
    f.number("temperature", temperature, {.low = 0, .high = 10, .doc = "of both models; 0: greedy"});
  }
};

}  // namespace trimtab
