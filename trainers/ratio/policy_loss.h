// Seam 4, ratio: the clipped surrogate of PPO (Schulman et al., arXiv 1707.06347) and its relatives, with
// derivatives in closed form. clip.h says which ratios count; here is what the ratio is of.
//
//   none             no ratio: the surrogate is -A logp, the plain policy gradient; with labels for actions and A = 1 the cross-entropy
//   token            r = exp(logp - logp_old), a row alone
//   sequence         s = exp(mean over the sequence's rows of logp - logp_old), one ratio for all its rows
//                    (GSPO, Zheng et al., arXiv 2507.18071, equations 5 and 7)
//   sequence_token   the value of s with the derivative taken through the row's own log-probability alone
//                    (GSPO-token, equation 13): rows of a sequence may have different advantages
//
//   L = surrogate + kl_coef k3(logp_old - logp) + reference_coef k3(logp_ref - logp) - entropy_coef H
//   k3(d) = exp(d) - d - 1
//
// Rows are weighted by `weight` (seam 5), so the sum over any split of a batch is the loss of the whole;
// sequence ratios want a split between sequences. `surrogate_weight` (mismatch.h) multiplies the surrogate
// alone. HAPPO's product of the ratios of agents updated before (arXiv 2109.11251) is positive, so it goes
// into the advantage.
//
// All exponentials are exact up to e^20 and continue as their tangent there, see bounded_exp: a narrow
// Gaussian moves a far action's logp by more than 88 nats within one update, e^88 is infinite in f32, and
// infinity times a coefficient or advantage of zero is not a number.
#pragma once

#include <cstdint>

#include "trainers/ratio/clip.h"

namespace trimtab {

enum class RatioLevel { kNone, kToken, kSequence, kSequenceToken };

template <class T>
struct PolicyRows {
  int64_t rows = 0;
  const T* logp = nullptr;              // [rows] now
  const T* logp_old = nullptr;          // [rows] at sampling
  const T* entropy = nullptr;           // [rows]
  const T* advantage = nullptr;         // [rows]
  const T* weight = nullptr;            // [rows] of the aggregation; 0 for masked rows
  const T* logp_ref = nullptr;          // [rows] of a reference policy; null: none
  const T* surrogate_weight = nullptr;  // [rows] of the surrogate alone; null: 1
  // Sequence ratios: sequence i is rows [sequence_begin[i], sequence_begin[i + 1]).
  const int64_t* sequence_begin = nullptr;  // [num_sequences + 1]
  int64_t num_sequences = 0;
};

// Sums over the rows given, each row times its weight; add them up over shards.
struct PolicyLossSums {
  double loss = 0;  // everything below together: what is minimised
  double surrogate = 0;
  double entropy = 0;
  double kl = 0;            // k3 against the sampling policy
  double clipped = 0;       // share of rows where a bound decided: the three below together
  double clipped_low = 0;   // A < 0 and the ratio below its lower bound
  double clipped_high = 0;  // A > 0 and the ratio above its upper bound
  double clipped_dual = 0;  // A < 0 and the ratio above the dual bound
  double reference_kl = 0;  // k3 against the reference policy; 0 without one
  void add(const PolicyLossSums& o) {
    loss += o.loss, surrogate += o.surrogate, entropy += o.entropy, kl += o.kl, clipped += o.clipped;
    clipped_low += o.clipped_low, clipped_high += o.clipped_high, clipped_dual += o.clipped_dual;
    reference_kl += o.reference_kl;
  }
  void count(Clipped bound, double weight) {
    clipped += bound == Clipped::kNo ? 0 : weight;
    clipped_low += bound == Clipped::kLow ? weight : 0;
    clipped_high += bound == Clipped::kHigh ? weight : 0;
    clipped_dual += bound == Clipped::kDual ? weight : 0;
  }
};

struct PolicyLossOptions {
  ClipOptions clip;
  double entropy_coef = 0;
  double kl_coef = 0;         // against the sampling policy
  double reference_coef = 0;  // against the reference policy
  RatioLevel level = RatioLevel::kToken;
};

// k3, the unbiased and positive estimate of a divergence (Schulman 2020), and its derivative with respect to
// logp, where d = (the other policy's logp) - logp.
template <class T>
Exponential<T> k3(T d) {
  const Exponential<T> inverse = bounded_exp(d);
  return {inverse.value - d - 1, 1 - inverse.slope};
}

// The surrogate of rows [first, last) by their own ratios; writes its derivative over d_logp.
template <class T>
void token_surrogate(const PolicyRows<T>& in, int64_t first, int64_t last, const ClipOptions& clip,
                     PolicyLossSums& sums, T* d_logp) {
  for (int64_t i = first; i < last; ++i) {
    d_logp[i] = 0;
    if (in.weight[i] == 0) continue;
    const Exponential<T> ratio = bounded_exp(in.logp[i] - in.logp_old[i]);
    const Surrogate<T> s = clipped_surrogate(ratio.value, in.advantage[i], clip, in.logp_old[i]);
    const T w = in.surrogate_weight ? in.weight[i] * in.surrogate_weight[i] : in.weight[i];
    d_logp[i] = w * s.d_ratio * ratio.slope;
    sums.surrogate += w * s.loss;
    sums.count(s.clipped, in.weight[i]);
  }
}

// -A logp of every row.
template <class T>
void plain_surrogate(const PolicyRows<T>& in, PolicyLossSums& sums, T* d_logp) {
  for (int64_t i = 0; i < in.rows; ++i) {
    const T w = in.weight[i] == 0 ? 0 : in.surrogate_weight ? in.weight[i] * in.surrogate_weight[i] : in.weight[i];
    d_logp[i] = w == 0 ? 0 : -w * in.advantage[i];
    if (w != 0) sums.surrogate -= w * in.advantage[i] * in.logp[i];
  }
}

// The same for one sequence with one ratio. Every row's loss depends on every row's logp through the mean,
// so each gets the sum of all derivatives over the sequence's length; GSPO-token leaves each its own.
template <class T>
void sequence_surrogate(const PolicyRows<T>& in, int64_t first, int64_t last,
                        const PolicyLossOptions& options, PolicyLossSums& sums, T* d_logp) {
  T moved = 0;
  int64_t length = 0;
  for (int64_t i = first; i < last; ++i) {
    d_logp[i] = 0;
    if (in.weight[i] == 0) continue;
    moved += in.logp[i] - in.logp_old[i];
    ++length;
  }
  if (length == 0) return;
  const Exponential<T> ratio = bounded_exp(moved / static_cast<T>(length));
  T total = 0;
  for (int64_t i = first; i < last; ++i) {
    if (in.weight[i] == 0) continue;
    const Surrogate<T> s = clipped_surrogate(ratio.value, in.advantage[i], options.clip, in.logp_old[i]);
    const T w = in.surrogate_weight ? in.weight[i] * in.surrogate_weight[i] : in.weight[i];
    d_logp[i] = w * s.d_ratio * ratio.slope;
    total += d_logp[i];
    sums.surrogate += w * s.loss;
    sums.count(s.clipped, in.weight[i]);
  }
  if (options.level == RatioLevel::kSequenceToken) return;
  for (int64_t i = first; i < last; ++i) {
    if (in.weight[i] != 0) d_logp[i] = total / static_cast<T>(length);
  }
}

// Writes d(loss)/d(logp) and d(loss)/d(entropy) per row and returns the sums. A masked row (weight 0) may
// hold anything.
template <class T>
PolicyLossSums policy_loss(const PolicyRows<T>& in, const PolicyLossOptions& options, T* d_logp,
                           T* d_entropy) {
  PolicyLossSums sums;
  if (options.level == RatioLevel::kNone) {
    plain_surrogate(in, sums, d_logp);
  } else if (options.level == RatioLevel::kToken) {
    token_surrogate(in, 0, in.rows, options.clip, sums, d_logp);
  } else {
    for (int64_t s = 0; s < in.num_sequences; ++s)
      sequence_surrogate(in, in.sequence_begin[s], in.sequence_begin[s + 1], options, sums, d_logp);
  }
  const T kl_coef = static_cast<T>(options.kl_coef), reference_coef = static_cast<T>(options.reference_coef);
  const T entropy_coef = static_cast<T>(options.entropy_coef);
  for (int64_t i = 0; i < in.rows; ++i) {
    const T w = in.weight[i];
    d_entropy[i] = -w * entropy_coef;
    if (w == 0) continue;
    if (options.level == RatioLevel::kNone) {   // logp_old is of another action, or of none
      sums.entropy += w * in.entropy[i];
      continue;
    }
    const Exponential<T> kl = k3(in.logp_old[i] - in.logp[i]);
    d_logp[i] += w * kl_coef * kl.slope;
    sums.entropy += w * in.entropy[i];
    sums.kl += w * kl.value;
    if (!in.logp_ref) continue;
    const Exponential<T> reference = k3(in.logp_ref[i] - in.logp[i]);
    d_logp[i] += w * reference_coef * reference.slope;
    sums.reference_kl += w * reference.value;
  }
  sums.loss = sums.surrogate + options.kl_coef * sums.kl + options.reference_coef * sums.reference_kl -
              options.entropy_coef * sums.entropy;
  return sums;
}

}  // namespace trimtab
