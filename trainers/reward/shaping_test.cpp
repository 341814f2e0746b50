// Shaping terms against their closed forms.
#include "trainers/reward/shaping.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"

namespace trimtab {
namespace {

nlohmann::json through_text(const nlohmann::json& json) { return nlohmann::json::parse(json.dump()); }

TEST(Overlong, CheckValuesOfDapo) {
  constexpr int64_t kLimit = 20480, kCache = 4096;
  EXPECT_EQ(soft_overlong(0, kLimit, kCache), 0);
  EXPECT_EQ(soft_overlong(16384, kLimit, kCache), 0);
  EXPECT_EQ(soft_overlong(18432, kLimit, kCache), -0.5);
  EXPECT_EQ(soft_overlong(20480, kLimit, kCache), -1);
  EXPECT_EQ(soft_overlong(30000, kLimit, kCache), -1);
  EXPECT_EQ(soft_overlong(101, 100, 0), -1);  // no cache: a step
  EXPECT_EQ(soft_overlong(100, 100, 0), 0);
}

TEST(Overlong, FilterTakesTruncatedEpisodesOut) {
  const std::vector<int64_t> begin{0, 2, 2, 5};
  const std::vector<uint8_t> truncated{0, 1, 1};
  std::vector<uint8_t> mask{1, 0, 1, 1, 1};
  filter_truncated(begin, truncated, mask);
  EXPECT_EQ(mask, (std::vector<uint8_t>{1, 0, 0, 0, 0}));
}

TEST(StopProperly, CutOffKeepsATenth) {
  EXPECT_EQ(stop_properly(1, true), 1);
  EXPECT_EQ(stop_properly(1, false), 0.1);
  EXPECT_EQ(stop_properly(-1, false, 0.5), -0.5);
}

TEST(Budget, BarrierIsContinuousFallingAndBounded) {
  EXPECT_EQ(budget_barrier(1000, 1000), 0);
  EXPECT_NEAR(budget_barrier(1250, 1000, 0.25, 0.5), -0.5 * (1 - std::exp(-1)), 1e-12);
  double last = 0;
  for (int64_t length = 1001; length < 3000; ++length) {
    const double now = budget_barrier(length, 1000);
    EXPECT_LT(now, last);
    EXPECT_NEAR(now, last, 0.5 / 250 + 1e-9);
    last = now;
  }
  EXPECT_GE(budget_barrier(1000000, 1000), -0.5);
}

TEST(Budget, BucketsHoldLengths) {
  const std::vector<int64_t> buckets{1000, 3000};
  EXPECT_EQ(bucket_of(1, buckets), 1000);
  EXPECT_EQ(bucket_of(1000, buckets), 1000);
  EXPECT_EQ(bucket_of(1001, buckets), 3000);
  EXPECT_EQ(bucket_of(9999, buckets), 3000);
}

TEST(Effort, RewardsCorrectResponsesWithinTheirShareOfTheMean) {
  EffortControl effort;
  EXPECT_EQ(effort.reward("p", true, 1000000, 0.5), 1);  // nothing known yet
  effort.record("p", std::vector<int64_t>{100, 300});
  effort.record("p", std::vector<int64_t>{200});
  EXPECT_EQ(effort.mean_length("p"), 200);
  EXPECT_EQ(effort.reward("p", true, 100, 0.5), 1);  // exactly at the limit
  EXPECT_EQ(effort.reward("p", true, 101, 0.5), 0);
  EXPECT_EQ(effort.reward("p", true, 600, 3, 0.7), 0.7);
  EXPECT_EQ(effort.reward("p", false, 10, 3), 0);
  EXPECT_EQ(EffortControl::from_json(through_text(effort.to_json())).mean_length("p"), 200);
}

TEST(RouterR1, HierarchicalReward) {
  EXPECT_EQ(hierarchical_reward(false, 1, 1, 1, 0.5), -1);
  EXPECT_NEAR(hierarchical_reward(true, 1, 0.2, 0.6, 0.25), 1.2 * 0.75 + 0.6 * 0.25, 1e-12);
  EXPECT_EQ(hierarchical_reward(true, 0, 0, 1, 0.5), 0);  // wrong and cheap
  EXPECT_EQ(hierarchical_reward(true, 1, 0, 0.3, 0), 1);
}

TEST(RouterR1, CostIsScoredBetweenPercentiles) {
  CostHistory history;
  EXPECT_EQ(history.score(5), 0.5);
  for (int i = 0; i < 10; ++i) history.record(4);
  EXPECT_EQ(history.score(4), 0.5);  // degenerate
  CostHistory wide;
  for (int i = 0; i <= 100; ++i) wide.record(i * i);  // roots 0 .. 100: p5 = 5, p95 = 95
  EXPECT_NEAR(wide.score(50 * 50), 0.5, 1e-12);
  EXPECT_EQ(wide.score(0), 1);
  EXPECT_EQ(wide.score(1e9), 0);
  EXPECT_NEAR(wide.score(14 * 14), 0.9, 1e-12);
}

TEST(RouterR1, OnlyTheLastThousandCostsCount) {
  CostHistory history;
  for (int i = 0; i < 500; ++i) history.record(1e12);
  for (int i = 0; i < 1000; ++i) history.record((i % 101) * (i % 101));
  EXPECT_GT(history.score(0), 0.99);
  EXPECT_LT(history.score(100 * 100), 0.01);
}

TEST(RouterR1, HistoryComesBackBitEqual) {
  Draws draws(1, Stream::kTest);
  CostHistory whole;
  for (int i = 0; i < 1234; ++i) whole.record(draws.uniform());
  CostHistory back = CostHistory::from_json(through_text(whole.to_json()));
  for (int i = 0; i < 10; ++i) {
    const double cost = draws.uniform();
    EXPECT_EQ(back.score(cost), whole.score(cost));
    whole.record(cost), back.record(cost);
  }
}

TEST(Difficulty, LimitTightensWithSuccessAndRelaxesWithFailure) {
  DifficultyLimit limits({.start = 4000, .low = 1000, .high = 5000, .factor = 0.5, .decay = 0.5});
  EXPECT_EQ(limits.limit("p"), 4000);
  limits.record("p", 0.75);  // above 1/2
  EXPECT_EQ(limits.limit("p"), 2000);
  limits.record("p", 0.75);  // as before: stays
  EXPECT_EQ(limits.limit("p"), 2000);
  limits.record("p", 1);
  EXPECT_EQ(limits.limit("p"), 1000);
  limits.record("p", 1);
  EXPECT_EQ(limits.limit("p"), 1000);  // not below
  limits.record("p", 0.5);
  EXPECT_EQ(limits.limit("p"), 2000);
  for (int i = 0; i < 5; ++i) limits.record("p", 0);
  EXPECT_EQ(limits.limit("p"), 5000);  // not above
  EXPECT_EQ(limits.limit("other"), 4000);
}

TEST(PromptMemory, KeepsThePromptsThatWereSeenLast) {
  PromptMemory<int> memory(4);
  for (const char* prompt : {"a", "b", "c", "d", "a"}) memory.see(prompt) += 1;   // b and c are the oldest
  const auto numbers = [](int x) { return nlohmann::json{x}; };
  PromptMemory<int> back(4);
  back.restore(through_text(memory.to_json(numbers)), 1, [](const nlohmann::json& row) { return row.at(0).get<int>(); });
  for (PromptMemory<int>* m : {&memory, &back}) {
    m->see("e") = 7;
    EXPECT_EQ(m->size(), 3u);
    EXPECT_EQ(m->find("b"), nullptr);
    EXPECT_EQ(m->find("c"), nullptr);
    EXPECT_EQ(*m->find("a"), 2);
    EXPECT_EQ(*m->find("d"), 1);
    EXPECT_EQ(*m->find("e"), 7);
  }
  EXPECT_EQ(memory.to_json(numbers), back.to_json(numbers));
}

TEST(PromptMemory, ReadsWhatWasWrittenBeforeItForgot) {
  DifficultyLimit limits;
  limits.restore({{"p", {0.25, 1234.0}}});
  EXPECT_EQ(limits.limit("p"), 1234);
}

TEST(PromptMemory, NeverHoldsMoreThanItsMost) {
  PromptMemory<int> memory(64);
  for (int i = 0; i < 10000; ++i) {
    memory.see(std::to_string(i % 777));
    ASSERT_LE(memory.size(), 64u);
  }
}

TEST(Difficulty, SolvedAlwaysGoesOnTighteningAndNeverGoesOnRelaxing) {
  DifficultyLimit limits({.start = 2000, .low = 100, .high = 8000, .factor = 0.5, .decay = 0.5});
  for (int i = 0; i < 3; ++i) limits.record("easy", 1), limits.record("hard", 0);
  EXPECT_EQ(limits.limit("easy"), 250);
  EXPECT_EQ(limits.limit("hard"), 8000);
}

TEST(Difficulty, ComesBackBitEqual) {
  Draws draws(3, Stream::kTest);
  DifficultyLimit whole, back;
  for (int i = 0; i < 50; ++i) whole.record(std::to_string(i % 5), draws.uniform());
  back.restore(through_text(whole.to_json()));
  for (int i = 0; i < 20; ++i) {
    const std::string prompt = std::to_string(i % 6);
    const double solved = draws.uniform();
    whole.record(prompt, solved), back.record(prompt, solved);
    EXPECT_EQ(whole.to_json(), back.to_json());
    EXPECT_EQ(whole.limit(prompt), back.limit(prompt));
  }
}

}  // namespace
}  // namespace trimtab
