// Seam 3, advantages: how much better an action was than expected. Free functions over plain arrays,
// templates over the number type so that tests run in float64.
//
// A rollout is [T, N]: step t of instance i is row t * N + i. `next_value` is what lies beyond a step that
// ended: 0 after a termination, the critic's value of the final state after a truncation.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "core/ranks.h"

namespace trimtab {

template <class T>
struct GaeInput {
  int64_t steps = 0, instances = 0;     // T, N
  const T* reward = nullptr;            // [T, N]
  const T* value = nullptr;             // [T, N] critic's value before the step
  const uint8_t* terminated = nullptr;  // [T, N]
  const uint8_t* truncated = nullptr;   // [T, N]
  const T* final_value = nullptr;       // [T, N] read where truncated only
  const T* last_value = nullptr;        // [N] value of the state after the last step
  double gamma = 0.99, lambda = 0.95;
};

// Generalised advantage estimation (Schulman et al., arXiv 1506.02438): A_t = delta_t + gamma lambda A_{t+1},
// where the sum stops at every end of an episode; delta bootstraps at a truncation and not at a termination.
// `returns` = advantage + value is the target of the value function.
template <class T>
void gae(const GaeInput<T>& in, T* advantage, T* returns) {
  const T gamma = static_cast<T>(in.gamma), decay = static_cast<T>(in.gamma * in.lambda);
  const int64_t n = in.instances;
  for (int64_t i = 0; i < n; ++i) {
    T running = 0, next = in.last_value[i];
    for (int64_t t = in.steps - 1; t >= 0; --t) {
      const int64_t r = t * n + i;
      if (in.terminated[r]) next = 0, running = 0;
      if (in.truncated[r]) next = in.final_value[r], running = 0;
      running = in.reward[r] + gamma * next - in.value[r] + decay * running;
      advantage[r] = running;
      returns[r] = running + in.value[r];
      next = in.value[r];
    }
  }
}

// Discounted sum of rewards from each step to the end of the episode or of the rollout (no bootstrap).
template <class T>
void reward_to_go(int64_t steps, int64_t instances, const T* reward, const uint8_t* ended, double gamma,
                  T* out) {
  for (int64_t i = 0; i < instances; ++i) {
    T running = 0;
    for (int64_t t = steps - 1; t >= 0; --t) {
      const int64_t r = t * instances + i;
      running = reward[r] + (ended[r] ? 0 : static_cast<T>(gamma) * running);
      out[r] = running;
    }
  }
}

// What is added to a group's deviation: verl adds 1e-6 (core_algos.py), TRL 1e-4 (grpo_trainer.py).
constexpr double kVerlStdEpsilon = 1e-6, kTrlStdEpsilon = 1e-4;

enum class GroupBaseline {
  kMean,         // A = R - mean of the group
  kMeanStd,      // A = (R - mean) / (std + epsilon), Bessel-corrected std (GRPO, arXiv 2402.03300)
  kLeaveOneOut,  // A = R - mean of the others (RLOO, arXiv 2402.14740)
  kNone,         // A = R
};

// Group-relative advantages of one decision point: `score` holds the members' scores, member k at score[k *
// stride]. Absent members (mask 0: their episode is over) neither count nor get an advantage. A lone member
// gets 0, except with kNone.
template <class T>
void group_advantage(GroupBaseline kind, int64_t members, int64_t stride, const T* score, const uint8_t* mask,
                     T* advantage, double std_epsilon = kVerlStdEpsilon) {
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (int64_t k = 0; k < members; ++k) {
    if (!mask[k * stride]) continue;
    sum += score[k * stride];
    ++count;
  }
  const double mean = count > 0 ? sum / count : 0;
  for (int64_t k = 0; k < members; ++k) {
    if (mask[k * stride]) squares += (score[k * stride] - mean) * (score[k * stride] - mean);
  }
  const double deviation = count > 1 ? std::sqrt(squares / (count - 1)) : 1;
  for (int64_t k = 0; k < members; ++k) {
    const int64_t r = k * stride;
    double a = score[r] - mean;
    if (kind == GroupBaseline::kNone) a = score[r];
    if (kind == GroupBaseline::kMeanStd) a /= deviation + std_epsilon;
    if (kind == GroupBaseline::kLeaveOneOut) a = count > 1 ? a * count / (count - 1) : 0;
    advantage[r] = mask[r] ? static_cast<T>(a) : 0;
  }
}

// Group-relative reward-to-go of a whole rollout [T, N]: instances [g * group, (g + 1) * group) are episodes
// of one world, and at each step every living member is compared with the others at the same step. mask [T,
// N]: 1 while the episode lives.
template <class T>
void group_reward_to_go(GroupBaseline kind, int64_t steps, int64_t instances, int64_t group, const T* to_go,
                        const uint8_t* mask, T* advantage, double std_epsilon = kVerlStdEpsilon) {
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t first = t * instances; first < (t + 1) * instances; first += group) {
      group_advantage(kind, group, 1, to_go + first, mask + first, advantage + first, std_epsilon);
    }
  }
}

enum class Whitening {
  kPopulation,  // (a - mean) / (std + 1e-8), population standard deviation
  kBessel,  // (a - mean) * rsqrt(var + 1e-8), Bessel-corrected variance, as DLER does it (arXiv 2510.15110;
            // verl's masked_whiten): by row, so that a long episode counts for more
};

// Mean 0 and deviation 1 over rows with mask 1 (null: all) of all ranks. Fewer than two rows stay as they
// are.
template <class T>
void whiten(int64_t rows, const uint8_t* mask, T* advantage, Ranks& ranks = one_process(),
            Whitening kind = Whitening::kPopulation) {
  std::array<double, 2> sums = {};  // and how many
  auto& [sum, count] = sums;
  double squares = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (mask && !mask[r]) continue;
    sum += advantage[r];
    ++count;
  }
  ranks.sum(sums);
  if (count < 2) return;
  const double mean = sum / count;
  for (int64_t r = 0; r < rows; ++r) {
    if (!mask || mask[r]) squares += (advantage[r] - mean) * (advantage[r] - mean);
  }
  ranks.sum(std::span(&squares, 1));
  const double scale = kind == Whitening::kBessel ? 1 / std::sqrt(squares / (count - 1) + 1e-8)
                                                  : 1 / (std::sqrt(squares / count) + 1e-8);
  for (int64_t r = 0; r < rows; ++r) {
    if (!mask || mask[r]) advantage[r] = static_cast<T>((advantage[r] - mean) * scale);
  }
}

// DLER's second script (correct_sample_advantage_boost_value): `boost` more for every row of a correct
// response. After everything else, so that no normalisation takes it away again.
template <class T>
void boost_correct(int64_t rows, const uint8_t* correct, double boost, T* advantage) {
  for (int64_t r = 0; r < rows; ++r) advantage[r] += correct[r] ? static_cast<T>(boost) : T(0);
}

}  // namespace trimtab
