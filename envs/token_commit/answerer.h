// Who answers prompts with a masked diffusion model and a rule or controller of token commitment, in builds that have one (live/).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/registry.h"
#include "domain/tasks/prompts.h"
#include "envs/evaluation.h"
#include "envs/token_commit/options.h"

namespace trimtab {

struct CommitAnswerOrder {
  TokenCommitOptions options;
  std::vector<PromptLine> prompts;
  std::string rule = "threshold_90";   // rules.h
  AgentFactory agents = {};            // a controller in its place
  std::string instruction = {};        // in front of every prompt
  int64_t samples = 1, threads = 0;    // threads 0: one per core
  uint64_t seed = 1;
};
struct CommitAnswer {
  int64_t prompt = 0, sample = 0;
  std::string prompt_text;                       // as given, or decoded
  std::vector<int32_t> prompt_tokens, tokens;    // tokens: without the ending
  std::string text;                              // up to the first of options.stop
  bool ended = false;                            // false: the canvas was too short
  bool empty = false;                            // the first token ends it
  int64_t passes = 0;
};

struct CommitAnswererEntry {
  std::string name, doc;
  std::function<std::vector<CommitAnswer>(const CommitAnswerOrder& order)> answer;
};

// In the order of prompts, and of samples within. ConfigError in builds without LibTorch; DataError naming the place of a prompt that can't be answered.
std::vector<CommitAnswer> answer_with_commitment(const CommitAnswerOrder& order);

}  // namespace trimtab
