#include "engine/generation/token_draw.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/token_softmax/token_softmax.h"

namespace trimtab {

int64_t TokenDraw::padded(int64_t vocab) { return (vocab + kSoftmaxBlock - 1) / kSoftmaxBlock * kSoftmaxBlock; }

TokenDraw::TokenDraw(int64_t vocab, const SamplingOptions& sampling)
    : vocab_(vocab), sampling_(sampling), e_(padded(vocab)), block_sums_(padded(vocab) / kSoftmaxBlock), kept_(vocab) {
  if (sampling_.top_k == 0 || sampling_.top_k > vocab) sampling_.top_k = vocab;
}

// The first token at which the sum of e passes uniform * sum; rounding may leave it unpassed, then the last that can be drawn.
int64_t TokenDraw::walk(double sum, double uniform) const {
  const double target = uniform * sum;
  double before = 0;
  int64_t block = 0, last = -1;
  const int64_t blocks = static_cast<int64_t>(block_sums_.size());
  for (; block + 1 < blocks && before + block_sums_[block] <= target; ++block) before += block_sums_[block];
  for (; block >= 0; --block) {
    const int64_t first = block * kSoftmaxBlock, end = std::min(vocab_, first + kSoftmaxBlock);
    for (int64_t j = first; j < end; ++j) {
      if (e_[j] <= 0) continue;
      last = j, before += e_[j];
      if (before > target) return j;
    }
    if (last >= 0) break;   // else the whole block is 0: the one before it is meant
  }
  return last;
}

// Moves the `count` likeliest to the front of kept_, likeliest first; equal ones by their ids.
void TokenDraw::keep_likeliest(const float* logits, int64_t count) {
  const auto likelier = [logits](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (count < vocab_) std::nth_element(kept_.begin(), kept_.begin() + count - 1, kept_.end(), likelier);
  std::sort(kept_.begin(), kept_.begin() + count, likelier);
}

int64_t TokenDraw::draw_among_kept(const float* logits, double sum, double uniform) {
  std::iota(kept_.begin(), kept_.end(), 0);
  int64_t count = sampling_.top_k;
  const auto mass = [this](int64_t n) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += e_[kept_[i]];
    return total;
  };
  double total = sum;
  if (count < vocab_) keep_likeliest(logits, count), total = mass(count);
  if (sampling_.top_p < 1) {
    const double wanted = sampling_.top_p * total;
    // A few likeliest tokens mostly hold the mass: more are sorted only when they do not.
    int64_t sorted = count;
    if (count == vocab_) {
      sorted = std::min<int64_t>(64, vocab_);
      for (keep_likeliest(logits, sorted); sorted < vocab_ && mass(sorted) < wanted; keep_likeliest(logits, sorted)) sorted = std::min(4 * sorted, vocab_);
    }
    total = 0;
    for (count = 0; count < sorted && (count == 0 || total < wanted); ++count) total += e_[kept_[count]];
  }
  const double target = uniform * total;
  double before = 0;
  for (int64_t i = 0; i + 1 < count; ++i) {
    before += e_[kept_[i]];
    if (before > target) return kept_[i];
  }
  return kept_[std::max<int64_t>(count - 1, 0)];
}

DrawnToken TokenDraw::draw(float* logits, const std::array<uint32_t, 4>& words) {
  const bool greedy = sampling_.temperature == 0;
  const float inverse_temperature = greedy ? 1.0f : static_cast<float>(1 / sampling_.temperature);
  const TokenSoftmax s = token_softmax(logits, vocab_, inverse_temperature, e_.data(), block_sums_.data());
  if (!s.finite) return {};
  int64_t token = s.argmax;
  if (!greedy) {
    const double uniform = token_uniform(words);
    const bool all = sampling_.top_k == vocab_ && sampling_.top_p >= 1;
    token = all ? walk(s.sum, uniform) : draw_among_kept(logits, s.sum, uniform);
  }
  const double z = (static_cast<double>(logits[token]) - s.max) * (greedy ? 1 : 1 / sampling_.temperature);
  return {static_cast<int32_t>(token), static_cast<float>(z - std::log(s.sum))};
}

}  // namespace trimtab
