// Mismatch between sampler and trainer: a sampler of its own (quantised, another kernel, an older policy)
// gives a token another probability than the trainer's forward of the same weights does. k = pi_train /
// pi_sampler, both by the policy that sampled, weights the surrogate and is not differentiated.
//
//   none            1
//   icepop          k where low <= k <= high, else 0            (IcePop, Ring-1T, arXiv 2510.18855: 0.5 and
//   5) truncate        min(k, truncate)                            (truncated importance sampling; verl: 2)
//   sequence_mask   the product of k over the sequence, for all its rows; 0 for a sequence where it exceeds
//                   sequence_max                                (TRL's default: 3)
//
// Only the surrogate's weight changes: normalisers (seam 5) still count dropped rows, as in verl.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "trainers/ratio/clip.h"

namespace trimtab {

enum class MismatchKind { kNone, kIcePop, kTruncate, kSequenceMask };

struct MismatchOptions {
  MismatchKind kind = MismatchKind::kNone;
  double low = 0.5, high = 5.0;  // icepop
  double truncate = 2.0;
  double sequence_max = 3.0;
};

// Add them up over shards; mean() and masked_share() then are of the whole batch.
struct MismatchSums {
  double difference = 0;  // sum of |logp of the trainer - logp of the sampler|
  double largest = 0;
  double masked = 0;  // rows that count and whose weight became 0
  double rows = 0;    // rows that count
  void add(const MismatchSums& o) {
    difference += o.difference, masked += o.masked, rows += o.rows;
    largest = std::max(largest, o.largest);
  }
  double mean() const { return rows > 0 ? difference / rows : 0; }
  double masked_share() const { return rows > 0 ? masked / rows : 0; }
};

// The weight of a ratio k of one row or, for sequence_mask, of a whole sequence.
inline double mismatch_weight(const MismatchOptions& options, double k) {
  switch (options.kind) {
    case MismatchKind::kIcePop:
      return k >= options.low && k <= options.high ? k : 0;
    case MismatchKind::kTruncate:
      return std::min(k, options.truncate);
    case MismatchKind::kSequenceMask:
      return k <= options.sequence_max ? k : 0;
    default:
      return 1;
  }
}

// Writes weight [rows]; rows with mask 0 get 1 and do not count. sequence_begin [sequences + 1]: sequence i
// is rows [sequence_begin[i], sequence_begin[i + 1]).
template <class T>
MismatchSums mismatch_weights(const MismatchOptions& options, std::span<const int64_t> sequence_begin,
                              const T* logp_trainer, const T* logp_sampler, const uint8_t* mask, T* weight) {
  MismatchSums sums;
  for (size_t s = 0; s + 1 < sequence_begin.size(); ++s) {
    double total = 0;
    for (int64_t i = sequence_begin[s]; i < sequence_begin[s + 1]; ++i) {
      if (!mask[i]) continue;
      const double d = static_cast<double>(logp_trainer[i]) - static_cast<double>(logp_sampler[i]);
      total += d;
      sums.difference += std::abs(d);
      sums.largest = std::max(sums.largest, std::abs(d));
    }
    for (int64_t i = sequence_begin[s]; i < sequence_begin[s + 1]; ++i) {
      weight[i] = 1;
      if (!mask[i]) continue;
      const double row = static_cast<double>(logp_trainer[i]) - static_cast<double>(logp_sampler[i]);
      const bool whole = options.kind == MismatchKind::kSequenceMask;
      weight[i] = static_cast<T>(mismatch_weight(options, bounded_exp(whole ? total : row).value));
      sums.masked += weight[i] == 0;
      ++sums.rows;
    }
  }
  return sums;
}

}  // namespace trimtab
