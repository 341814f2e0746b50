// `trimtab eval` for language runs: held-out problems instead of traces, the same document (evaluation.h).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/subject.h"

namespace trimtab {

struct LanguageEvalRequest {
  SubjectOptions subject;          // run folders, overrides, checkpoint
  std::vector<std::string> files;  // JSONL; empty: the suite's own test split
  bool allow_validation = false;
  bool with_start = true;  // also evaluate the model the runs started from, where there is one
  int64_t episodes = 0, samples = 1, max_tokens = 0,
          threads = 0;      // 0: all (a suite: 512), the run's, one per core
  double temperature = -1;  // below 0: that of training
  uint64_t seed = 1;
};

// Is this the folder of a run in an environment of language models?
bool is_language_run(const std::string& name);

nlohmann::json evaluate_language_runs(const LanguageEvalRequest& request);

}  // namespace trimtab
