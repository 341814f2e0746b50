// Softmax of one row of logits, in the form that drawing a token needs: e[j] = exp( (logit[j] - max) / temperature ), its sum,
// and sums of blocks of 64 to walk the distribution by. The order of summation is fixed by the number of logits. Thread-safe; no
// allocation.
#pragma once

#include <cstdint>

namespace trimtab {

constexpr int64_t kSoftmaxBlock = 64;

struct TokenSoftmax {
  float max = 0;
  int64_t argmax = 0;     // the lowest of equal ones
  double sum = 0;         // of all e
  bool finite = true;     // false: a logit is NaN or infinite, and the rest means nothing
};

// logits [n], n >= 1, in an array of n rounded up to 64, of which the rest is overwritten; so it is in e. block_sums [n / 64 up].
TokenSoftmax token_softmax(float* logits, int64_t n, float inverse_temperature, float* e, float* block_sums);

}  // namespace trimtab
