// Tokens per ms lately, apart for every batch size: what a round's time is priced at (Dinkelbach 1967). Batch sizes count by powers of two.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/random.h"

namespace trimtab {

constexpr int64_t kBatchSizes = 11;   // 1 to 1024

inline int batch_bucket(int64_t batch) { return std::min<int>(kBatchSizes - 1, std::bit_width(static_cast<uint64_t>(batch)) - 1); }

inline int64_t draw_batch(Draws& draws, int64_t low, int64_t high) {
  const int first = batch_bucket(low), last = batch_bucket(high);
  return int64_t{1} << (first + static_cast<int>(draws.below(static_cast<uint32_t>(last - first + 1))));
}

// A price in tokens as a feature.
template <class T>
T log_price(T price) {
  return std::clamp(std::log2(std::max(price, static_cast<T>(1e-6))), static_cast<T>(-12), static_cast<T>(12));
}

struct RunningRates {
  std::array<double, kBatchSizes> tokens = {}, ms = {};

  double rate(int64_t batch, double reference) const {
    const int b = batch_bucket(batch);
    return ms[b] > 0 ? tokens[b] / ms[b] : reference;
  }
  // It begins as the reference's, worth a number of rounds (of `plain_ms`, without drafts) that fade as all rounds do.
  void learn(int64_t batch, double round_tokens, double round_ms, double reference, double plain_ms) {
    constexpr double kForget = 0.999, kPriorRounds = 300;
    const int b = batch_bucket(batch);
    if (ms[b] == 0) ms[b] = kPriorRounds * plain_ms, tokens[b] = reference * ms[b];
    tokens[b] = kForget * tokens[b] + round_tokens, ms[b] = kForget * ms[b] + round_ms;
  }
};

}  // namespace trimtab
