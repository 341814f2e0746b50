// DCPO's smoothing against its formulas, by hand and over long histories.
#include "trainers/advantage/smooth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "trainers/advantage/advantage.h"

namespace trimtab {
namespace {

RewardMoments moments(const std::vector<double>& reward) {
  return group_moments<double>(static_cast<int64_t>(reward.size()), 1, reward.data(), nullptr);
}

TEST(Smooth, FirstVisitIsGrpoWithoutItsEpsilon) {
  const std::vector<double> reward{1, 0, 0, 1, 0.5};
  const std::vector<uint8_t> all(5, 1);
  std::vector<double> grpo(5);
  group_advantage<double>(GroupBaseline::kMeanStd, 5, 1, reward.data(), all.data(), grpo.data(), 0);
  SmoothStatistics statistics;
  const SmoothVisit visit = statistics.visit("p", moments(reward));
  EXPECT_EQ(visit.visits, 1);
  for (int k = 0; k < 5; ++k) EXPECT_NEAR(visit.advantage(reward[k]), grpo[k], 1e-12);
}

TEST(Smooth, SecondVisitByHand) {
  SmoothStatistics statistics;
  statistics.visit("p", moments({0, 0, 0, 1}));                        // mean 1/4, variance 1/4
  statistics.visit("other", moments({5, 7}));                          // does not matter
  const SmoothVisit v = statistics.visit("p", moments({1, 1, 0, 1}));  // mean 3/4, variance 1/4
  EXPECT_EQ(v.visits, 2);
  EXPECT_NEAR(v.total.mean, 0.5, 1e-15);
  EXPECT_NEAR(v.total.variance, (0.25 + 0.25 + 0.5 * 0.25) / 2, 1e-15);
  const double by_group = (1 - 0.75) / 0.5, by_total = 0.5 / std::sqrt(0.3125);
  EXPECT_NEAR(v.advantage(1), (by_group + by_total) / 2, 1e-12);  // i = 2: both averages agree
}

TEST(Smooth, TheSmallerAverageDecides) {
  SmoothStatistics statistics;
  for (int visit = 0; visit < 3; ++visit) statistics.visit("p", moments({0, 0, 0, 1}));
  const SmoothVisit v = statistics.visit("p", moments({1, 1, 0, 1}));
  for (const double reward : {0.0, 1.0}) {
    const double by_group = (reward - v.group.mean) / std::sqrt(v.group.variance);
    const double by_total = (reward - v.total.mean) / std::sqrt(v.total.variance);
    const double a = 0.75 * by_group + 0.25 * by_total, b = 0.25 * by_group + 0.75 * by_total;
    EXPECT_NEAR(v.advantage(reward), std::abs(a) < std::abs(b) ? a : b, 1e-12);
    EXPECT_NE(a, b);
  }
}

TEST(Smooth, EqualRewardsGetAShareOfThePast) {
  SmoothStatistics statistics;
  statistics.visit("p", moments({0, 1}));
  statistics.visit("p", moments({0, 1}));
  const SmoothVisit v = statistics.visit("p", moments({0.1, 0.1, 0.1}));
  EXPECT_EQ(v.group.variance, 0);
  const double by_total = (0.1 - v.total.mean) / std::sqrt(v.total.variance);
  EXPECT_NEAR(v.advantage(0.1), by_total / 3, 1e-12);
}

// Rounding must not become an advantage of one: there is no epsilon to swallow it.
TEST(Smooth, EqualRewardsAtEveryVisitTeachNothing) {
  SmoothStatistics statistics;
  for (int visit = 0; visit < 50; ++visit) {
    const SmoothVisit v = statistics.visit("p", moments({0.1, 0.1, 0.1, 0.1, 0.1, 0.1}));
    ASSERT_EQ(v.advantage(0.1), 0) << visit;
  }
  EXPECT_EQ(statistics.visit("alone", moments({0.3})).advantage(0.3), 0);
}

TEST(Smooth, AbsentMembersDoNotCount) {
  const std::vector<double> reward{1, 100, 3};
  const std::vector<uint8_t> mask{1, 0, 1};
  const RewardMoments of = group_moments<double>(3, 1, reward.data(), mask.data());
  EXPECT_EQ(of.mean, 2);
  EXPECT_EQ(of.variance, 2);
  const std::vector<uint8_t> nobody(3, 0);
  EXPECT_EQ(group_moments<double>(3, 1, reward.data(), nobody.data()).mean, 0);
}

// The recurrence is that of the pooled variance between and within visits.
TEST(Smooth, ManyVisitsArePooled) {
  Draws draws(1, Stream::kTest);
  SmoothStatistics statistics;
  double means = 0, within = 0, squares = 0;
  SmoothVisit last;
  constexpr int kVisits = 40;
  for (int visit = 0; visit < kVisits; ++visit) {
    const RewardMoments of = moments({draws.normal(), draws.normal(), draws.normal(), draws.normal()});
    means += of.mean, within += of.variance, squares += of.mean * of.mean;
    last = statistics.visit("p", of);
  }
  const double mean = means / kVisits;
  EXPECT_NEAR(last.total.mean, mean, 1e-12);
  EXPECT_NEAR(last.total.variance, within / kVisits + squares / kVisits - mean * mean, 1e-12);
}

TEST(Smooth, ComesBackFromACheckpointBitEqual) {
  Draws draws(2, Stream::kTest);
  SmoothStatistics whole;
  for (int visit = 0; visit < 30; ++visit)
    whole.visit("prompt " + std::to_string(visit % 7), moments({draws.normal(), draws.normal()}));
  SmoothStatistics back = SmoothStatistics::from_json(nlohmann::json::parse(whole.to_json().dump()));
  EXPECT_EQ(back.prompts(), 7u);
  const RewardMoments next = moments({0.3, 0.9});
  for (int p = 0; p < 8; ++p) {
    const std::string prompt = "prompt " + std::to_string(p);
    const SmoothVisit a = whole.visit(prompt, next), b = back.visit(prompt, next);
    EXPECT_EQ(a.visits, b.visits);
    EXPECT_EQ(a.advantage(0.3), b.advantage(0.3));
  }
}

}  // namespace
}  // namespace trimtab
