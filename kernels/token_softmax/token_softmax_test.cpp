// Softmax over a vocabulary against float64.
#include "kernels/token_softmax/token_softmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class TokenSoftmaxTest : public EveryTarget {};
TT_ON_EVERY_TARGET(TokenSoftmaxTest);

TEST_P(TokenSoftmaxTest, EqualsFloat64) {
  for (uint32_t round = 0; round < 200; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const int64_t n = 1 + draws.below(round % 2 ? 70 : 1000), padded = (n + 63) / 64 * 64;
    const float scales[] = {1, 0, 50, 1e30f}, inverse = 0.2f + 2 * draws.uniform();
    std::vector<float> logits = random_numbers(padded, draws, scales[draws.below(4)]), e(padded), sums(padded / 64);
    logits.resize(n);
    if (n > 5) logits[n - 2] = logits[n / 2] = *std::max_element(logits.begin(), logits.end());   // a tie
    const std::vector<float> x = logits;
    logits.resize(padded, NAN);
    const TokenSoftmax s = token_softmax(logits.data(), n, inverse, e.data(), sums.data());
    ASSERT_TRUE(s.finite);
    const auto most = std::max_element(x.begin(), x.end());
    ASSERT_EQ(s.max, *most);
    ASSERT_EQ(s.argmax, most - x.begin());
    double total = 0, of_blocks = 0;
    for (int64_t j = 0; j < padded; ++j) {
      const double expected = j < n ? std::exp((double{x[j]} - s.max) * inverse) : 0;
      ASSERT_NEAR(e[j], expected, 2e-5 * expected + 1e-37);
      total += expected;
    }
    for (const float sum : sums) of_blocks += sum;
    ASSERT_EQ(of_blocks, s.sum);
    ASSERT_NEAR(s.sum, total, 1e-5 * total);
  }
}

TEST_P(TokenSoftmaxTest, WhatIsNotFiniteIsTold) {
  for (const float poison : {NAN, INFINITY, -INFINITY}) {
    for (const int64_t place : {0, 7, 63, 64, 99}) {
      std::vector<float> logits(128, 1.0f), e(128), sums(2);
      logits[place] = poison;
      EXPECT_FALSE(token_softmax(logits.data(), 100, 1, e.data(), sums.data()).finite);
    }
  }
}

}  // namespace
}  // namespace trimtab
