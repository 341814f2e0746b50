// Sums are in double, eight of them side by side within blocks of 64: the same bits with every instruction set.
#include <cmath>

#include "core/error.h"
#include "kernels/speculative_verify/speculative_verify.h"
#include "kernels/speculative_verify/speculative_walk.h"

namespace trimtab {
namespace {

constexpr int64_t kBlock = 64, kLanes = 8;

template <class Weight>
double block_sum(const Weight& weight, int64_t begin, int64_t end) {
  double lanes[kLanes] = {};
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes)
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += double{weight(j + i)};
  for (int64_t i = 0; j + i < end; ++i) lanes[i] += double{weight(j + i)};
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// The number that q still gives to tokens not removed.
struct KeptDraft {
  const float *left, *q;
  float operator()(int64_t j) const { return left[j] < 0 ? 0 : q[j]; }
};

struct CpuRows {
  int64_t vocab;

  int64_t end_of(int64_t begin) const { return begin + kBlock < vocab ? begin + kBlock : vocab; }
  bool leads() const { return true; }

  template <class Weight>
  double sum(const Weight& weight) const {
    double total = 0;
    for (int64_t j = 0; j < vocab; j += kBlock) total += block_sum(weight, j, end_of(j));
    return total;
  }

  bool is_distribution(const float* row) const {
    bool negative = false;   // or NaN
    for (int64_t j = 0; j < vocab; ++j) negative |= !(row[j] >= 0);
    return !negative && std::abs(sum([row](int64_t j) { return row[j]; }) - 1) <= double{kSpeculativeTolerance};
  }

  int64_t draw(const ResidualWeight& weight, double u) const {
    const double target = u * sum(weight);
    double before = 0;
    int64_t last = -1;   // block with a weight; the draw's when rounding leaves the target beyond all of them
    double before_last = 0;
    for (int64_t j = 0; j < vocab; j += kBlock) {
      const double here = block_sum(weight, j, end_of(j));
      if (!(here > 0)) continue;
      last = j, before_last = before;
      if (before + here > target) break;
      before += here;
    }
    return last < 0 ? -1 : draw_within(weight, last, target - before_last);
  }

  int64_t draw_within(const ResidualWeight& weight, int64_t begin, double target) const {
    double running = 0;
    int64_t chosen = -1;
    for (int64_t j = begin; j < end_of(begin); ++j) {
      if (!(weight(j) > 0)) continue;
      chosen = j, running += double{weight(j)};
      if (running > target) break;
    }
    return chosen;
  }

  Leftover reject(const Rejection& rejection, float* to) const {
    for (int64_t j = 0; j < vocab; ++j) to[j] = rejection(j);
    return {sum(ResidualWeight{to, nullptr, -1}), rejection.q == nullptr ? 0 : sum(KeptDraft{to, rejection.q})};
  }
};

}  // namespace

bool speculative_verify(const SpeculativeChains& c) {
  TT_CHECK(speculative_shape_holds(c), "{} sequences, vocab {}, strides {} and {}", c.num_sequences, c.vocab, c.p_stride, c.q_stride);
  const CpuRows rows{c.vocab};
  bool sound = true;
  for (int64_t b = 0; b < c.num_sequences; ++b) {
    c.verdict[b] = walk_chain(c, b, rows);
    sound &= c.verdict[b].fault == SpeculativeFault::kNone;
  }
  return sound;
}

bool speculative_verify(const SpeculativeTrees& t) {
  TT_CHECK(speculative_shape_holds(t), "{} sequences, vocab {}, strides {} and {}", t.num_sequences, t.vocab, t.p_stride, t.q_stride);
  TT_CHECK(t.num_sequences == 0 || (t.scratch != nullptr && t.path != nullptr), "a tree takes a row of scratch and a path");
  const CpuRows rows{t.vocab};
  bool sound = true;
  for (int64_t b = 0; b < t.num_sequences; ++b) {
    t.verdict[b] = walk_tree(t, b, t.scratch, rows);
    sound &= t.verdict[b].fault == SpeculativeFault::kNone;
  }
  return sound;
}

}  // namespace trimtab
