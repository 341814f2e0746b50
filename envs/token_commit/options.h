// Keys of `env` for token_commit: what decodes, what the agents see and do, what they are paid for, and what an evaluation compares.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/options.h"
#include "envs/token_commit/features.h"

namespace trimtab {

struct SyntheticCommitOptions {   // synthetic.h
  int64_t vocab = 16;
  double depends = 1.5, certain = 0.6;
  void describe(Fields& f);
};

struct TokenCommitOptions {
  std::string mode = "live";               // live, synthetic
  std::string model = {};                  // a run or a Hugging Face folder
  int64_t length = 128, longest = 0;       // of the canvas, tokens; longest > 0: it adapts
  std::string window = "full";             // full, block, sliding
  int64_t block = 32, width = 16;
  int64_t passes = 0;                      // planned, for quota and klass
  std::string cache = "none";
  int64_t refresh = 0, neighbourhood = 16; // of the cache
  double drift_threshold = 0.9;
  bool eos_guard = true, finish_early = true;
  double temperature = 0;
  std::vector<std::string> stop = {"."};
  // ---- what agents see and do (token_commit.h, features.h) ----
  std::string action = "subset";           // subset, order
  int64_t items = 32, projected = 0, codes = 0, places = 0, committed = 0, picks = 4, most = 0;
  double threshold = 0.5;
  bool planned = false;
  bool decide_window = false, decide_refresh = false;
  std::string windows = "8,16,32";
  // ---- what they are paid for ----
  std::string reward = "product";          // product, sum
  double alpha = 1, pass_price = 0.5, stability = 0;
  int64_t budget = 0, least_budget = 0;
  // ---- what an evaluation compares ----
  bool both_guards = false;
  std::vector<std::string> rules = {};     // empty: commit_rule_names
  std::vector<std::string> delimiters = {};   // of adablock
  std::vector<double> thresholds = {};     // at which a learned controller is asked, beside `threshold`
  std::string filter = {};                 // learn2pd.h
  SyntheticCommitOptions synthetic = {};
  void describe(Fields& f);
  void validate() const;
  int64_t most_tokens() const { return std::max(length, longest); }
};
TokenCommitOptions token_commit_options(const Config& config);   // of the env block
CommitViewOptions commit_view_options(const TokenCommitOptions& options, int64_t hidden_size);   // hidden_size: of the model

}  // namespace trimtab
