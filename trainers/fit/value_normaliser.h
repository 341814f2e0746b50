// Value normalisation: the critic learns (return - mean) / std with running moments of the returns (Yu et
// al., "The surprising effectiveness of PPO in cooperative multi-agent games", arXiv 2103.01955, its
// ValueNorm, with one update per rollout). Moments are exponential averages with their initial bias divided
// out.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>

#include "core/ranks.h"

namespace trimtab {

class ValueNormaliser {
 public:
  // Blends in one rollout's returns, those of all ranks; `decay` is the weight of the past.
  template <class T>
  void update(const T* returns, int64_t rows, double decay, Ranks& ranks = one_process()) {
    std::array<double, 3> sums = {0, 0, static_cast<double>(rows)};
    for (int64_t i = 0; i < rows; ++i) sums[0] += returns[i], sums[1] += double{returns[i]} * returns[i];
    ranks.sum(sums);
    weight_ = decay * weight_ + (1 - decay);
    mean_ = decay * mean_ + (1 - decay) * sums[0] / sums[2];
    square_ = decay * square_ + (1 - decay) * sums[1] / sums[2];
  }
  double mean() const { return weight_ > 0 ? mean_ / weight_ : 0; }
  double scale() const {
    if (weight_ <= 0) return 1;
    return std::sqrt(std::max(square_ / weight_ - mean() * mean(), kMinVariance));
  }
  template <class T>
  T normalised(T x) const {
    return static_cast<T>((x - mean()) / scale());
  }
  template <class T>
  T restored(T x) const {
    return static_cast<T>(x * scale() + mean());
  }
  // weight, mean and square, for checkpoints.
  std::array<double, 3> state() const { return {weight_, mean_, square_}; }
  void set_state(std::array<double, 3> s) { weight_ = s[0], mean_ = s[1], square_ = s[2]; }

 private:
  static constexpr double kMinVariance =
      1e-4;  // ValueNorm's floor: keeps constant returns from being blown up
  double weight_ = 0, mean_ = 0, square_ = 0;
};

}  // namespace trimtab
