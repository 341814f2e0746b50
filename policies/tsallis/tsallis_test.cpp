#include "policies/tsallis/tsallis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

using Row = std::vector<double>;

Row drawn(Draws& draws, int64_t n, double sharpness) {
  Row p(n);
  for (double& x : p) x = std::exp(sharpness * draws.normal());
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

Row weights_of(const Row& p, const TsallisRouting& routing, bool* soft = nullptr) {
  Row out(p.size());
  const bool was_soft = route(p, routing, out);
  if (soft) *soft = was_soft;
  return out;
}

void expect_row(const Row& found, const Row& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-12) << "expert " << i;
}

TEST(TsallisEntropy, IsItsDefinitionAndShannonsNearOne) {
  Draws draws(test_seed(), Stream::kTest, 31);
  for (int trial = 0; trial < 50; ++trial) {
    const Row p = drawn(draws, 1 + draws.below(9), 1.5);
    double shannon = 0;
    for (const double x : p) shannon -= x * std::log(x);
    EXPECT_NEAR(tsallis_entropy(p, 1), shannon, 1e-12);
    for (const double near : {1 - 1e-9, 1 + 1e-9}) EXPECT_NEAR(tsallis_entropy(p, near), shannon, 1e-7);
    for (const double q : {0.5, 1.1, 2.0, 3.7}) {
      double sum = 0;
      for (const double x : p) sum += std::pow(x, q);
      EXPECT_NEAR(tsallis_entropy(p, q), (1 - sum) / (q - 1), 1e-11);
      EXPECT_LE(tsallis_entropy(p, q), largest_tsallis_entropy(static_cast<int64_t>(p.size()), q) + 1e-12);
    }
  }
}

TEST(TsallisEntropy, IsLargestForTheUniformAndZeroForOneHot) {
  for (const double q : {0.5, 1.0, 1.1, 2.0})
    for (const int64_t n : {1, 2, 5, 16}) {
      const Row uniform(n, 1.0 / static_cast<double>(n));
      EXPECT_NEAR(tsallis_entropy(uniform, q), largest_tsallis_entropy(n, q), 1e-12);
      Row one(n, 0.0);
      one[n / 2] = 1;
      EXPECT_EQ(tsallis_entropy(one, q), 0);
    }
  EXPECT_NEAR(largest_tsallis_entropy(4, 2), 0.75, 1e-15);   // 1 - 1/N at q = 2
}

TEST(TsallisRoute, SpreadsWhatIsUncertainAndKeepsTheLikeliestOfTheRest) {
  bool soft = false;
  expect_row(weights_of({0.25, 0.25, 0.25, 0.25}, {}, &soft), {0.25, 0.25, 0.25, 0.25});
  EXPECT_TRUE(soft);
  expect_row(weights_of({0.02, 0.9, 0.05, 0.03}, {}, &soft), {0, 0.9 / 0.95, 0.05 / 0.95, 0});   // top-p alone would keep one
  EXPECT_FALSE(soft);
  expect_row(weights_of({0, 0, 1, 0}, {}, &soft), {0, 0, 1, 0});
  EXPECT_FALSE(soft);
}

TEST(TsallisRoute, TheThresholdIsAShareOfTheLargestEntropy) {
  const Row p = {0.6, 0.25, 0.1, 0.05};
  const double share = tsallis_entropy(p, 1.1) / largest_tsallis_entropy(4, 1.1);
  bool soft = false;
  weights_of(p, {.threshold = share - 1e-9}, &soft);
  EXPECT_TRUE(soft);
  weights_of(p, {.threshold = share + 1e-9}, &soft);
  EXPECT_FALSE(soft);
  weights_of({0.25, 0.25, 0.25, 0.25}, {.threshold = 1}, &soft);
  EXPECT_FALSE(soft);
}

TEST(TsallisRoute, TopPKeepsTheFewestThatReachIt) {
  const auto hard = [](const Row& p, double top_p, int64_t keep) { return weights_of(p, {.threshold = 1, .top_p = top_p, .keep = keep}); };
  const Row p = {0.125, 0.5, 0.125, 0.25};   // exact in binary
  expect_row(hard(p, 0.5, 1), {0, 1, 0, 0});
  expect_row(hard(p, 0.5 + 1e-9, 1), {0, 2.0 / 3, 0, 1.0 / 3});
  expect_row(hard(p, 0.75, 1), {0, 2.0 / 3, 0, 1.0 / 3});
  expect_row(hard(p, 0.8, 1), {1.0 / 7, 4.0 / 7, 0, 2.0 / 7});   // of equals the first
  expect_row(hard(p, 1, 1), p);
  expect_row(hard(p, 0, 1), {0, 1, 0, 0});
  expect_row(hard(p, 0, 3), {1.0 / 7, 4.0 / 7, 0, 2.0 / 7});
  expect_row(hard(p, 0, 99), p);
  expect_row(hard({1}, 0.75, 2), {1});
}

TEST(TsallisRoute, WeightsSumToOneAndKeepTheProportions) {
  Draws draws(test_seed(), Stream::kTest, 32);
  for (int trial = 0; trial < 200; ++trial) {
    const Row p = drawn(draws, 1 + draws.below(12), draws.uniform(0, 4));
    const TsallisRouting routing{.q = draws.uniform(0.3f, 3), .threshold = draws.uniform(0, 1), .top_p = draws.uniform(0, 1), .keep = 1 + draws.below(4)};
    bool soft = false;
    const Row w = weights_of(p, routing, &soft);
    EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-12);
    int64_t count = 0;
    double kept = 0, least = 1, most_left_out = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      if (w[i] > 0) {
        ++count, kept += p[i], least = std::min(least, p[i]);
      } else {
        most_left_out = std::max(most_left_out, p[i]);
      }
    }
    EXPECT_GE(count, std::min<int64_t>(routing.keep, static_cast<int64_t>(p.size())));
    EXPECT_GE(least, most_left_out);
    EXPECT_GE(kept, (soft ? 1 : routing.top_p) - 1e-12);
    for (size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(w[i] * kept, w[i] > 0 ? p[i] : 0, 1e-12);
  }
}

TEST(TsallisRoute, RefusesWhatIsNotFinite) {
  Row out(2);
  EXPECT_THROW(route(Row{std::nan(""), 1}, {}, out), NonFiniteRouting);
}

}  // namespace
}  // namespace trimtab
