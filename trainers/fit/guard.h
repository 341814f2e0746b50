// What stands between a bad batch and the weights: numbers that are not finite, and steps whose loss or gradient is far from those before.
//
// A spike is a loss or a gradient norm whose z-score among those of the last `window` steps is above `spike`. Spikes stay in the window, so
// that a change that lasts is soon no spike. Skipped steps are logged (guard/not_finite, guard/spikes) and told on standard error.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/options.h"

namespace trimtab {

struct GuardBlock {
  std::string non_finite = "stop";
  double spike = 0;
  int64_t window = 64;
  void describe(Fields& f);
};

class StepGuard {
 public:
  explicit StepGuard(const GuardBlock& options) : options_(options) {}

  // May this step be taken? `explain` is called when a number is not finite: it dumps the batch and says which tensor and where. RunError with
  // that sentence under `stop`. Does not allocate otherwise.
  template <class Explain>
  bool take(double loss, double norm, Explain&& explain) {
    if (std::isfinite(loss) && std::isfinite(norm)) return !is_spike(loss, norm);
    refuse(explain());
    return false;
  }
  // The same of a whole rollout, whose numbers are known to be bad.
  void refuse(const std::string& explanation);

  std::vector<std::pair<std::string, double>> metrics() const;   // counts so far; empty where nothing could be skipped
  nlohmann::json to_json() const;
  void restore(const nlohmann::json& json);

 private:
  struct Window {
    std::deque<double> values;
    bool is_spike(double value, double threshold, int64_t size);   // and remembers it
  };
  bool is_spike(double loss, double norm);

  GuardBlock options_;
  Window loss_, norm_;
  int64_t not_finite_ = 0, spikes_ = 0;
};

}  // namespace trimtab
