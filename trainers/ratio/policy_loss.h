// Seam 4, ratio and clip: the clipped surrogate of PPO (Schulman et al., arXiv 1707.06347) and its relatives,
// per row and with derivatives in closed form.
//
//   r = exp(logp - logp_old)
//   symmetric, asymmetric:  L = -min(r A, clip(r, 1 - low, 1 + high) A)          (asymmetric is DAPO's
//   clip-higher) dual:                   for A < 0 additionally L <= -dual A                  (arXiv
//   1912.09729) none:                   L = -r A
//   + kl_coef (exp(d) - d - 1), d = logp_old - logp                              (k3 against the sampling
//   policy)
//   - entropy_coef H
//
// Rows are weighted by `weight` (seam 5), so the sum over any split of a batch is the loss of the whole.
// HAPPO's product of the ratios of agents updated before (arXiv 2109.11251) is positive, so it goes into the
// advantage.
//
// Both exponentials (r and exp(d)) are exact up to e^20 and continue as their tangent there, see bounded_exp:
// a narrow Gaussian moves a far action's logp by more than 88 nats within one update, e^88 is infinite in
// f32, and infinity times a coefficient or advantage of zero is not a number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace trimtab {

enum class ClipKind { kNone, kSymmetric, kAsymmetric, kDual };

struct ClipOptions {
  ClipKind kind = ClipKind::kSymmetric;
  double low = 0.2, high = 0.2;  // the ratio is kept in [1 - low, 1 + high]; symmetric: both are `low`
  double dual = 3.0;             // dual: bound of the ratio for negative advantages
};

template <class T>
struct PolicyRows {
  int64_t rows = 0;
  const T* logp = nullptr;       // [rows] now
  const T* logp_old = nullptr;   // [rows] at sampling
  const T* entropy = nullptr;    // [rows]
  const T* advantage = nullptr;  // [rows]
  const T* weight = nullptr;     // [rows] of the aggregation; 0 for masked rows
};

// Sums over the rows given, each row times its weight; add them up over shards.
struct PolicyLossSums {
  double loss = 0;  // everything below together: what is minimised
  double surrogate = 0;
  double entropy = 0;
  double kl = 0;       // k3 against the sampling policy
  double clipped = 0;  // share of rows where the clip decided
  void add(const PolicyLossSums& o) {
    loss += o.loss, surrogate += o.surrogate, entropy += o.entropy, kl += o.kl, clipped += o.clipped;
  }
};

struct PolicyLossOptions {
  ClipOptions clip;
  double entropy_coef = 0;
  double kl_coef = 0;
};

// The bound that verl puts on the log-ratio (core_algos.py). Cutting the log-ratio off, as it does there,
// takes the gradient away from the rows that have moved furthest; a tangent keeps it, and keeps the loss
// convex in d.
constexpr double kMaxExponent = 20;

template <class T>
struct Exponential {
  T value, slope;
};

// e^x and its derivative up to kMaxExponent, from there on the tangent: finite, increasing and
// differentiable.
template <class T>
Exponential<T> bounded_exp(T x) {
  constexpr T kMax = static_cast<T>(kMaxExponent);
  const T slope = std::exp(std::min(x, kMax));
  return {x > kMax ? slope * (1 + x - kMax) : slope, slope};
}

template <class T>
struct Surrogate {
  T loss, d_ratio;
  bool clipped;
};

// One row's surrogate and its derivative with respect to the ratio; 0 where a branch is constant in it.
template <class T>
Surrogate<T> clipped_surrogate(T ratio, T advantage, const ClipOptions& clip) {
  const T high = clip.kind == ClipKind::kSymmetric ? clip.low : clip.high;
  const T free = ratio * advantage;
  if (clip.kind == ClipKind::kNone) return {-free, -advantage, false};
  const T bounded = std::clamp<T>(ratio, 1 - static_cast<T>(clip.low), 1 + high) * advantage;
  T best = std::min(free, bounded);
  bool clipped = bounded < free;
  if (clip.kind == ClipKind::kDual && advantage < 0 && static_cast<T>(clip.dual) * advantage > best) {
    best = static_cast<T>(clip.dual) * advantage;
    clipped = true;
  }
  return {-best, clipped ? T(0) : -advantage, clipped};
}

// Writes d(loss)/d(logp) and d(loss)/d(entropy) per row and returns the sums.
template <class T>
PolicyLossSums policy_loss(const PolicyRows<T>& in, const PolicyLossOptions& options, T* d_logp,
                           T* d_entropy) {
  PolicyLossSums sums;
  const T kl_coef = static_cast<T>(options.kl_coef), entropy_coef = static_cast<T>(options.entropy_coef);
  for (int64_t i = 0; i < in.rows; ++i) {
    const T w = in.weight[i];
    if (w == 0) {  // a masked row may hold anything
      d_logp[i] = d_entropy[i] = 0;
      continue;
    }
    const T d = in.logp_old[i] - in.logp[i];
    const Exponential<T> ratio = bounded_exp(-d), inverse = bounded_exp(d);
    const Surrogate<T> s = clipped_surrogate(ratio.value, in.advantage[i], options.clip);
    const T kl = inverse.value - d - 1;
    d_logp[i] = w * (s.d_ratio * ratio.slope + kl_coef * (1 - inverse.slope));
    d_entropy[i] = -w * entropy_coef;
    sums.surrogate += w * s.loss;
    sums.entropy += w * in.entropy[i];
    sums.kl += w * kl;
    sums.clipped += w * s.clipped;
  }
  sums.loss = sums.surrogate + options.kl_coef * sums.kl - options.entropy_coef * sums.entropy;
  return sums;
}

}  // namespace trimtab
