#include "engine/speculative/token_distribution.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "engine/generation/token_draw.h"
#include "kernels/token_softmax/token_softmax.h"

namespace trimtab {

TokenDistribution::TokenDistribution(int64_t vocab, const SamplingOptions& sampling)
    : vocab_(vocab), sampling_(sampling), e_(TokenDraw::padded(vocab)), block_sums_(TokenDraw::padded(vocab) / kSoftmaxBlock), order_(vocab) {
  if (sampling_.top_k == 0 || sampling_.top_k > vocab) sampling_.top_k = vocab;
}

void TokenDistribution::probabilities(float* logits, float* out) {
  const bool greedy = sampling_.temperature == 0;
  const TokenSoftmax s = token_softmax(logits, vocab_, greedy ? 1.0f : static_cast<float>(1 / sampling_.temperature), e_.data(), block_sums_.data());
  if (!s.finite) throw RunError("the logits of a token are not finite: has training diverged?");
  sum_ = s.sum, max_ = s.max, likeliest_ = static_cast<int32_t>(s.argmax);
  if (out == nullptr) return;
  if (greedy) {
    std::fill_n(out, vocab_, 0.0f);
    out[likeliest_] = 1;
    return;
  }
  for (int64_t j = 0; j < vocab_; ++j) out[j] = static_cast<float>(e_[j] / sum_);
  if (sampling_.top_k < vocab_ || sampling_.top_p < 1) keep(out);
}

// Leaves the likeliest by top_k and top_p; of equal ones the lower ids.
void TokenDistribution::keep(float* out) {
  std::iota(order_.begin(), order_.end(), 0);
  std::partial_sort(order_.begin(), order_.begin() + sampling_.top_k, order_.end(), [out](int32_t a, int32_t b) { return out[a] != out[b] ? out[a] > out[b] : a < b; });
  double total = 0, kept = 0;
  for (int64_t i = 0; i < sampling_.top_k; ++i) total += out[order_[i]];
  int64_t count = 0;
  while (count < sampling_.top_k && (count == 0 || kept < sampling_.top_p * total)) kept += out[order_[count++]];
  for (int64_t i = 0; i < count; ++i) out[order_[i]] = static_cast<float>(out[order_[i]] / kept);
  for (int64_t i = count; i < vocab_; ++i) out[order_[i]] = 0;
}

DistributionShape TokenDistribution::shape(float* logits, float* out) {
  probabilities(logits, out);
  double entropy = 0, second = 0;
  for (int64_t j = 0; j < vocab_; ++j) {
    const double p = e_[j] / sum_;
    if (p > 1e-12) entropy -= p * std::log(p);
    if (j != likeliest_) second = std::max(second, p);
  }
  const double top = e_[likeliest_] / sum_;
  return {static_cast<float>(std::max(0.0, entropy)), static_cast<float>(top), static_cast<float>(top - second)};
}

float TokenDistribution::logprob(const float* logits, int32_t token) const {
  const double inverse = sampling_.temperature == 0 ? 1 : 1 / sampling_.temperature;
  return static_cast<float>((static_cast<double>(logits[token]) - max_) * inverse - std::log(sum_));
}

int32_t draw_token(const float* probabilities, int64_t vocab, double uniform) {
  double total = 0, before = 0;
  for (int64_t j = 0; j < vocab; ++j) total += probabilities[j];
  int32_t last = 0;
  for (int64_t j = 0; j < vocab; ++j) {
    if (probabilities[j] <= 0) continue;
    last = static_cast<int32_t>(j), before += probabilities[j];
    if (before > uniform * total) return last;
  }
  return last;
}

}  // namespace trimtab
