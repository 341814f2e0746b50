// Keys of `env` where rules of token commitment are compared on a masked diffusion model that decodes (envs/token_commit/live).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"

namespace trimtab {

struct TokenCommitOptions {
  std::string model = {};                  // a run or a Hugging Face folder
  int64_t length = 128;                    // of the canvas, tokens
  std::string window = "full";             // full, block, sliding
  int64_t block = 32, width = 16;
  int64_t passes = 0;                      // planned, for quota and klass
  std::string cache = "none";
  bool eos_guard = true, both_guards = false, finish_early = true;
  double temperature = 0;
  std::vector<std::string> stop = {"."};
  std::vector<std::string> rules = {};     // empty: commit_rule_names
  std::vector<std::string> delimiters = {};   // of adablock
  void describe(Fields& f);
  void validate() const;
};

}  // namespace trimtab
