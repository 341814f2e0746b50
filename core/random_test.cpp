#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/test_support.h"

namespace trimtab {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, AnswersTheAuthorsVectors) {  // Random123 1.14, tests/kat_vectors, philox4x32 10
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, ~uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Four standard errors of a mean of `n` draws with variance `variance`: a right generator fails once in
// 16,000 seeds.
double bound(double variance, int n) { return 4 * std::sqrt(variance / n); }

constexpr int kDraws = 200000;

struct Moments {
  double mean = 0, square = 0, fourth = 0;
};
template <class Draw>
Moments moments_of(Draw draw) {
  Moments m;
  for (int i = 0; i < kDraws; ++i) {
    const double x = draw();
    m.mean += x / kDraws;
    m.square += x * x / kDraws;
    m.fourth += x * x * x * x / kDraws;
  }
  return m;
}

TEST(Draws, UniformHasItsMoments) {
  Draws draws(test_seed(), Stream::kTest, 1);
  const Moments m = moments_of([&] { return draws.uniform(); });
  EXPECT_NEAR(m.mean, 1.0 / 2, bound(1.0 / 12, kDraws));
  EXPECT_NEAR(m.square, 1.0 / 3, bound(4.0 / 45, kDraws));
}

TEST(Draws, NormalHasItsMoments) {
  Draws draws(test_seed(), Stream::kTest, 2);
  const Moments m = moments_of([&] { return draws.normal(); });
  EXPECT_NEAR(m.mean, 0, bound(1, kDraws));
  EXPECT_NEAR(m.square, 1, bound(2, kDraws));
  EXPECT_NEAR(m.fourth, 3, bound(96, kDraws));
}

TEST(Draws, ExponentialHasItsMoments) {
  Draws draws(test_seed(), Stream::kTest, 3);
  const Moments m = moments_of([&] { return draws.exponential(); });
  EXPECT_NEAR(m.mean, 1, bound(1, kDraws));
  EXPECT_NEAR(m.square, 2, bound(20, kDraws));
}

TEST(Draws, BelowIsEvenAndInRange) {
  Draws draws(test_seed(), Stream::kTest, 4);
  constexpr uint32_t kSides = 7;
  std::vector<int> seen(kSides);
  for (int i = 0; i < kDraws; ++i) {
    const uint32_t side = draws.below(kSides);
    ASSERT_LT(side, kSides);
    ++seen[side];
  }
  const double expected = static_cast<double>(kDraws) / kSides;
  for (const int count : seen) EXPECT_NEAR(count, expected, 5 * std::sqrt(expected));
}

TEST(Draws, ExtremeBitsStayInsideTheirRanges) {
  EXPECT_EQ(uniform01(0), 0.0f);
  EXPECT_LT(uniform01(0xffffffff), 1.0f);
  Draws draws(test_seed(), Stream::kTest, 5);
  for (int i = 0; i < kDraws; ++i) {
    ASSERT_TRUE(std::isfinite(draws.normal()));
    ASSERT_GE(draws.exponential(), 0.0f);
  }
}

TEST(Draws, ArePureFunctionsOfWhatTheyBelongTo) {
  Draws a(5, Stream::kAck, 1, 2, 3), b(5, Stream::kAck, 1, 2, 3);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(a.bits(), b.bits());
  EXPECT_EQ(random_words(5, Stream::kAck, {1, 2, 3, 0}), random_words(5, Stream::kAck, {1, 2, 3, 0}));
  std::vector<uint32_t> first;
  for (const uint64_t seed : {0u, 1u, 2u}) {
    for (const Stream stream : {Stream::kAck, Stream::kWorld, Stream::kAction}) {
      for (uint32_t a0 = 0; a0 < 3; ++a0) {
        for (uint32_t c0 = 0; c0 < 3; ++c0) first.push_back(random_words(seed, stream, {a0, 0, c0, 0})[0]);
      }
    }
  }
  std::sort(first.begin(), first.end());
  EXPECT_EQ(std::adjacent_find(first.begin(), first.end()), first.end()) << "two different keys share a draw";
}

TEST(Draws, StreamsAndNeighbouringCountersAreUncorrelated) {
  double across_streams = 0, across_counters = 0;
  constexpr int kPairs = 50000;
  for (uint32_t i = 0; i < kPairs; ++i) {
    const float x = uniform01(random_words(test_seed(), Stream::kAck, {i, 0, 0, 0})[0]) - 0.5f;
    across_streams += x * (uniform01(random_words(test_seed(), Stream::kWorld, {i, 0, 0, 0})[0]) - 0.5f);
    across_counters += x * (uniform01(random_words(test_seed(), Stream::kAck, {i + 1, 0, 0, 0})[0]) - 0.5f);
  }
  EXPECT_NEAR(across_streams / kPairs, 0, bound(1.0 / 144, kPairs));
  EXPECT_NEAR(across_counters / kPairs, 0, bound(1.0 / 144, kPairs));
}

}  // namespace
}  // namespace trimtab
