// Smooth cumulative standardisation (DCPO, Yang et al., arXiv 2509.02333): a group is compared with itself
// and with all responses its prompt ever got, so that a group of equal rewards still teaches something.
//
//   i-th visit of a prompt (this one included), rewards of its group with mean m and deviation s:
//   m_i = ((i-1) m_{i-1} + m) / i      v_i = ((i-1) v_{i-1} + s^2 + (i-1)/i (m_{i-1} - m)^2) / i
//   A_new = (R - m) / s      A_tot = (R - m_i) / sqrt(v_i)      each 0 where its deviation is 0
//   SA_new = (i-1)/i A_new + 1/i A_tot      SA_tot = 1/i A_new + (i-1)/i A_tot
//   A = the one of smaller magnitude, SA_tot when they are equal
//
// With i = 1 this is GRPO without its epsilon; s is Bessel-corrected as there. A group of one has s = 0.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

namespace trimtab {

struct RewardMoments {
  double mean = 0, variance = 0;
};

// Moments of a group's rewards, member k at reward[k * stride]; members with mask 0 are absent (null: none).
// Equal rewards have a variance of exactly 0: without an epsilon, rounding would become an advantage of 1.
template <class T>
RewardMoments group_moments(int64_t members, int64_t stride, const T* reward, const uint8_t* mask) {
  double first = 0, sum = 0, squares = 0;
  int64_t count = 0;
  for (int64_t k = 0; k < members; ++k) {
    if (mask && !mask[k * stride]) continue;
    if (count++ == 0) first = reward[k * stride];
    sum += reward[k * stride] - first;
  }
  if (count == 0) return {};
  const double mean = first + sum / static_cast<double>(count);
  for (int64_t k = 0; k < members; ++k) {
    const double d = reward[k * stride] - mean;
    if (!mask || mask[k * stride]) squares += d * d;
  }
  return {mean, count > 1 ? squares / static_cast<double>(count - 1) : 0};
}

// A prompt's visit: what turns a reward of its group into an advantage.
struct SmoothVisit {
  int64_t visits = 1;
  RewardMoments group, total;
  double advantage(double reward) const;
};

// The statistics of all prompts, by an id that stays the same from epoch to epoch. Part of the checkpoint:
// from_json(to_json()) is bit-equal.
class SmoothStatistics {
 public:
  SmoothVisit visit(const std::string& prompt, const RewardMoments& group);
  size_t prompts() const { return past_.size(); }
  nlohmann::json to_json() const;
  static SmoothStatistics from_json(const nlohmann::json& json);

 private:
  struct Past {
    int64_t visits = 0;
    RewardMoments total;
  };
  std::map<std::string, Past> past_;
};

}  // namespace trimtab
