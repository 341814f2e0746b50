// Advantages against their definitions, written out by hand and in float64.
#include "trainers/advantage/advantage.h"

#include <gtest/gtest.h>

#include <vector>

namespace trimtab {
namespace {

constexpr double kGamma = 0.9, kLambda = 0.8;

struct Case {
  std::vector<double> reward{1, 2, 3, 4}, value{0.5, -1, 2, 0.25};
  std::vector<uint8_t> terminated{0, 0, 0, 0}, truncated{0, 0, 0, 0};
  std::vector<double> final_value{0, 0, 0, 0}, last_value{5};
  std::vector<double> advantage = std::vector<double>(4), returns = std::vector<double>(4);
  void run() {
    gae<double>({.steps = 4,
                 .instances = 1,
                 .reward = reward.data(),
                 .value = value.data(),
                 .terminated = terminated.data(),
                 .truncated = truncated.data(),
                 .final_value = final_value.data(),
                 .last_value = last_value.data(),
                 .gamma = kGamma,
                 .lambda = kLambda},
                advantage.data(), returns.data());
  }
  // delta_t when the state after step t is worth `next`.
  double delta(int t, double next) const { return reward[t] + kGamma * next - value[t]; }
};

TEST(Gae, SumsDiscountedErrors) {
  Case c;
  c.run();
  const double d[] = {c.delta(0, c.value[1]), c.delta(1, c.value[2]), c.delta(2, c.value[3]),
                      c.delta(3, c.last_value[0])};
  double expected = 0;
  for (int t = 3; t >= 0; --t) {
    expected = d[t] + kGamma * kLambda * expected;
    EXPECT_NEAR(c.advantage[t], expected, 1e-12);
    EXPECT_NEAR(c.returns[t], expected + c.value[t], 1e-12);
  }
}

TEST(Gae, TerminationHasNoValueBeyond) {
  Case c;
  c.terminated[1] = 1;
  c.final_value[1] = 100;  // must not be read
  c.run();
  EXPECT_NEAR(c.advantage[1], c.delta(1, 0), 1e-12);
  EXPECT_NEAR(c.advantage[0], c.delta(0, c.value[1]) + kGamma * kLambda * c.delta(1, 0), 1e-12);
  EXPECT_NEAR(c.advantage[3], c.delta(3, c.last_value[0]), 1e-12);
}

TEST(Gae, TruncationBootstrapsFromTheFinalState) {
  Case c;
  c.truncated[1] = 1;
  c.final_value[1] = 7;
  c.run();
  EXPECT_NEAR(c.advantage[1], c.delta(1, 7), 1e-12);
  EXPECT_NEAR(c.advantage[0], c.delta(0, c.value[1]) + kGamma * kLambda * c.delta(1, 7), 1e-12);
}

TEST(Gae, LambdaOneIsReturnMinusValueAndInstancesAreApart) {
  const std::vector<double> reward{1, 10, 2, 20, 3, 30}, value{1, 2, 3, 4, 5, 6}, last{8, 9};
  const std::vector<uint8_t> none(6, 0);
  std::vector<double> advantage(6), returns(6);
  gae<double>({.steps = 3,
               .instances = 2,
               .reward = reward.data(),
               .value = value.data(),
               .terminated = none.data(),
               .truncated = none.data(),
               .final_value = value.data(),
               .last_value = last.data(),
               .gamma = 0.5,
               .lambda = 1},
              advantage.data(), returns.data());
  EXPECT_NEAR(returns[0], 1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 8)), 1e-12);
  EXPECT_NEAR(returns[1], 10 + 0.5 * (20 + 0.5 * (30 + 0.5 * 9)), 1e-12);
}

TEST(RewardToGo, StopsAtEnds) {
  const std::vector<double> reward{1, 2, 3};
  const std::vector<uint8_t> ended{0, 1, 0};
  std::vector<double> out(3);
  reward_to_go<double>(3, 1, reward.data(), ended.data(), 0.5, out.data());
  EXPECT_DOUBLE_EQ(out[0], 2);
  EXPECT_DOUBLE_EQ(out[1], 2);
  EXPECT_DOUBLE_EQ(out[2], 3);
}

std::vector<double> compared(GroupBaseline kind, std::vector<double> score, std::vector<uint8_t> mask) {
  std::vector<double> out(score.size(), -99);
  group_advantage<double>(kind, static_cast<int64_t>(score.size()), 1, score.data(), mask.data(), out.data());
  return out;
}

TEST(Group, BaselinesByDefinition) {
  const std::vector<double> score{1, 2, 6};
  const std::vector<uint8_t> all{1, 1, 1};
  EXPECT_EQ(compared(GroupBaseline::kMean, score, all), (std::vector<double>{-2, -1, 3}));
  EXPECT_EQ(compared(GroupBaseline::kNone, score, all), score);
  const std::vector<double> others = compared(GroupBaseline::kLeaveOneOut, score, all);
  EXPECT_NEAR(others[0], 1 - 4.0, 1e-12);
  EXPECT_NEAR(others[2], 6 - 1.5, 1e-12);
  const double deviation = std::sqrt((4.0 + 1 + 9) / 2);  // Bessel
  EXPECT_NEAR(compared(GroupBaseline::kMeanStd, score, all)[2], 3 / (deviation + 1e-6), 1e-12);
}

TEST(Group, AbsentMembersDoNotCount) {
  const std::vector<double> out = compared(GroupBaseline::kMean, {1, 1000, 3}, {1, 0, 1});
  EXPECT_EQ(out, (std::vector<double>{-1, 0, 1}));
  EXPECT_EQ(compared(GroupBaseline::kMeanStd, {5, 7}, {1, 0}), (std::vector<double>{0, 0}));
  EXPECT_EQ(compared(GroupBaseline::kMeanStd, {5, 5, 5}, {1, 1, 1}), (std::vector<double>{0, 0, 0}));
}

TEST(Whiten, GivesMeanZeroDeviationOneOverRowsThatCount) {
  std::vector<double> a{1, 5, 3, 1e9};
  const std::vector<uint8_t> mask{1, 1, 1, 0};
  whiten<double>(4, mask.data(), a.data());
  EXPECT_NEAR(a[0] + a[1] + a[2], 0, 1e-9);
  EXPECT_NEAR((a[0] * a[0] + a[1] * a[1] + a[2] * a[2]) / 3, 1, 1e-6);
  EXPECT_EQ(a[3], 1e9);
}

TEST(Group, EpsilonOfTheDeviation) {
  const std::vector<double> score{0, 2};
  const std::vector<uint8_t> all{1, 1};
  for (const double epsilon : {kVerlStdEpsilon, kTrlStdEpsilon}) {
    std::vector<double> out(2);
    group_advantage<double>(GroupBaseline::kMeanStd, 2, 1, score.data(), all.data(), out.data(), epsilon);
    EXPECT_NEAR(out[1], 1 / (std::sqrt(2) + epsilon), 1e-15);
  }
  EXPECT_EQ(kVerlStdEpsilon, 1e-6);
  EXPECT_EQ(kTrlStdEpsilon, 1e-4);
}

// DLER: by row, so an episode of three rows counts three times, with Bessel's variance.
TEST(Whiten, ByRowAsDlerDoesIt) {
  std::vector<double> a{0.5, 0.5, 0.5, -1, 99, 0.25};
  const std::vector<uint8_t> mask{1, 1, 1, 1, 0, 1};
  whiten<double>(6, mask.data(), a.data(), one_process(), Whitening::kBessel);
  const double mean = (3 * 0.5 - 1 + 0.25) / 5;
  const double squares =
      3 * (0.5 - mean) * (0.5 - mean) + (1 + mean) * (1 + mean) + (0.25 - mean) * (0.25 - mean);
  EXPECT_NEAR(a[0], (0.5 - mean) / std::sqrt(squares / 4 + 1e-8), 1e-12);
  EXPECT_NEAR(a[3], (-1 - mean) / std::sqrt(squares / 4 + 1e-8), 1e-12);
  EXPECT_EQ(a[4], 99);
}

TEST(Whiten, OfEqualAdvantagesIsZeroAndOfOneRowNothing) {
  for (const Whitening kind : {Whitening::kPopulation, Whitening::kBessel}) {
    std::vector<double> equal{3, 3, 3}, alone{3};
    whiten<double>(3, nullptr, equal.data(), one_process(), kind);
    EXPECT_EQ(equal, (std::vector<double>{0, 0, 0}));
    whiten<double>(1, nullptr, alone.data(), one_process(), kind);
    EXPECT_EQ(alone[0], 3);
  }
}

TEST(Boost, AddsToRowsOfCorrectResponses) {
  std::vector<double> a{-1, 2, 0};
  const std::vector<uint8_t> correct{1, 0, 1};
  boost_correct<double>(3, correct.data(), 0.1, a.data());
  EXPECT_EQ(a, (std::vector<double>{-0.9, 2, 0.1}));
}

}  // namespace
}  // namespace trimtab
