// Ridge regression of a reward on a context, kept up to date in O(d^2) for each observation: A = lambda I + sum x x^T, theta = A^-1 b.
// The inverse is kept, not A (Sherman & Morrison, Ann. Math. Statist. 21, 1950).
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "core/archive.h"

namespace trimtab {

class RidgeModel {
 public:
  RidgeModel(int64_t features, double ridge) : features_(features), inverse_(features * features), theta_(features), scratch_(features) {
    for (int64_t i = 0; i < features; ++i) inverse_[i * features + i] = 1 / ridge;
  }

  double mean(std::span<const float> x) const {   // theta . x
    double out = 0;
    for (int64_t i = 0; i < features_; ++i) out += theta_[i] * x[i];
    return out;
  }
  double width(std::span<const float> x) const {   // sqrt(x A^-1 x): how little was seen in the direction x
    double out = 0;
    for (int64_t i = 0; i < features_; ++i) out += x[i] * row_times(i, x);
    return std::sqrt(out > 0 ? out : 0);   // rounding can take it below 0
  }
  // theta moves by gain * (reward - theta . x), which is A^-1 b of the new A and b without keeping b.
  void learn(std::span<const float> x, double reward) {
    const double error = reward - mean(x);
    double spread = 1;
    for (int64_t i = 0; i < features_; ++i) scratch_[i] = row_times(i, x), spread += x[i] * scratch_[i];
    for (int64_t i = 0; i < features_; ++i) {
      theta_[i] += scratch_[i] / spread * error;
      // The product of two entries of one vector, so that the inverse stays symmetric to the last bit.
      for (int64_t j = 0; j < features_; ++j) inverse_[i * features_ + j] -= scratch_[i] * scratch_[j] / spread;
    }
  }
  std::span<const double> theta() const { return theta_; }      // [d]
  std::span<const double> inverse() const { return inverse_; }  // [d, d] row-major
  void serialise(Archive& a) {
    a(inverse_), a(theta_);
    if (inverse_.size() != static_cast<size_t>(features_ * features_) || theta_.size() != static_cast<size_t>(features_))
      throw CheckpointError("saved bandit: a linear model of another number of features");
  }

 private:
  double row_times(int64_t i, std::span<const float> x) const {
    double out = 0;
    for (int64_t j = 0; j < features_; ++j) out += inverse_[i * features_ + j] * x[j];
    return out;
  }
  int64_t features_;
  std::vector<double> inverse_, theta_, scratch_;
};

}  // namespace trimtab
