// Results of rules that learn while they run: they go through all episodes in their order, once for each seed, whichever episode is asked first.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "envs/evaluation.h"

namespace trimtab {

class ResultsInOrder {
 public:
  // run_all() gives a result for every episode. Thread-safe; others wait meanwhile.
  template <class RunAll>
  const std::vector<EpisodeResult>& of(const std::string& policy, uint64_t seed, const RunAll& run_all) {
    const std::lock_guard lock(mutex_);
    std::vector<EpisodeResult>& out = results_[{policy, seed}];
    if (out.empty()) out = run_all();
    return out;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, std::vector<EpisodeResult>> results_;
};

}  // namespace trimtab
