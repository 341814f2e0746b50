// Choosing one token from a row of logits.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/generation/generator.h"

namespace trimtab {

struct DrawnToken {
  int32_t token = -1;   // -1: a logit is not finite
  float logprob = 0;    // under softmax(logits / temperature), nothing left out; greedy: at temperature 1
};

// [0, 1) with the first 53 bits of `words`.
inline double token_uniform(const std::array<uint32_t, 4>& words) { return static_cast<double>(uint64_t{words[0]} << 21 | words[1] >> 11) * 0x1p-53; }

// Of one thread: scratch that a draw needs.
class TokenDraw {
 public:
  TokenDraw(int64_t vocab, const SamplingOptions& sampling);
  static int64_t padded(int64_t vocab);   // numbers that an array of logits needs

  // Inverse of the distribution function at the first 53 bits of `words`; `logits` [padded(vocab)], the padding is overwritten.
  DrawnToken draw(float* logits, const std::array<uint32_t, 4>& words);

 private:
  int64_t walk(double sum, double uniform) const;
  int64_t draw_among_kept(const float* logits, double sum, double uniform);
  void keep_likeliest(const float* logits, int64_t count);

  int64_t vocab_;
  SamplingOptions sampling_;
  std::vector<float> e_, block_sums_;
  std::vector<int32_t> kept_;
};

}  // namespace trimtab
