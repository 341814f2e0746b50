#include "engine/diffusion/proposer.h"

#include <algorithm>
#include <cmath>

#include "kernels/token_softmax/token_softmax.h"

namespace trimtab {
namespace {

constexpr float kNever = -1e30f;   // finite, but exp of it is 0

}  // namespace

Proposer::Proposer(int64_t vocab, int64_t mask_id, double temperature)
    : vocab_(vocab), mask_id_(mask_id), greedy_(temperature == 0), draw_(vocab, SamplingOptions{.temperature = temperature}), e_(TokenDraw::padded(vocab)),
      block_sums_(TokenDraw::padded(vocab) / kSoftmaxBlock) {}

void Proposer::propose(float* logits, const std::array<uint32_t, 4>& words, std::span<float> before, Proposal& p) {
  logits[mask_id_] = kNever;
  const TokenSoftmax s = token_softmax(logits, vocab_, 1, e_.data(), block_sums_.data());
  p.finite = s.finite;
  if (!s.finite) return;
  const bool again = p.token >= 0;
  p.token = greedy_ ? static_cast<int32_t>(s.argmax) : draw_.draw(logits, words).token;
  const int32_t likeliest = static_cast<int32_t>(s.argmax);
  // draw() leaves its own exponentials in its own scratch: e_ is still at temperature 1.
  const double log_sum = std::log(s.sum), inverse = 1 / s.sum;
  double entropy = log_sum, divergence = 0;
  float other = 0;
  for (int64_t j = 0; j < vocab_; ++j) {
    entropy -= e_[j] * inverse * (logits[j] - s.max);
    if (j != p.token) other = std::max(other, e_[j]);
  }
  for (size_t j = 0; j < before.size(); ++j) {
    const float logp = static_cast<float>(logits[j] - s.max - log_sum);
    if (again) divergence += e_[j] * inverse * (logp - before[j]);
    before[j] = logp;
  }
  p.confidence = static_cast<float>(e_[p.token] * inverse), p.margin = static_cast<float>((e_[p.token] - other) * inverse);
  p.entropy = static_cast<float>(std::max(0.0, entropy)), p.drift = static_cast<float>(std::max(0.0, divergence));
  p.held = again && likeliest == p.likeliest ? p.held + 1 : 0, p.likeliest = likeliest;
}

}  // namespace trimtab
