#include "domain/draft_schedule/schedule_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/test_support.h"
#include "domain/draft_schedule/draft_schedule_test_util.h"

namespace trimtab {
namespace {

DraftRates random_rates(Draws& draws, int64_t batches, int64_t lengths) {
  DraftRates r;
  r.lengths = lengths;
  const bool sparse = draws.below(2) == 1, weighted = draws.below(2) == 1, coarse = draws.below(3) == 0;
  int64_t batch = 0;
  for (int64_t row = 0; row < batches; ++row) {
    r.batches.push_back(batch += sparse ? 1 + draws.below(20) : 1);
    if (weighted) r.weights.push_back(row == 0 ? 1 : draws.below(4));
    for (int64_t k = 0; k < lengths; ++k)
      r.tokens_per_s.push_back(coarse ? 1 + draws.below(3) : draws.uniform(0.1f, 100.0f));
  }
  return r;
}

DraftSchedule with_entries(std::vector<DraftEntry> entries, int64_t lengths) {
  return schedule_of(std::move(entries), std::max<int64_t>(1, lengths - 1));
}

// Every way to cut the rows into at most `ranges` runs, each run with its own best length.
double brute_force(const DraftRates& r, int64_t ranges) {
  const auto rows = static_cast<int64_t>(r.batches.size());
  double best = std::numeric_limits<double>::infinity();
  for (uint32_t cuts = 0; cuts < (1u << (rows - 1)); ++cuts) {
    if (__builtin_popcount(cuts) >= ranges) continue;
    double total = 0, weights = 0;
    for (int64_t begin = 0; begin < rows;) {
      int64_t end = begin + 1;
      while (end < rows && !(cuts >> (end - 1) & 1)) ++end;
      double cheapest = std::numeric_limits<double>::infinity();
      for (int64_t k = 0; k < r.lengths; ++k) {
        double loss = 0;
        for (int64_t row = begin; row < end; ++row) {
          double top = 0;
          for (int64_t other = 0; other < r.lengths; ++other) top = std::max(top, r.at(row, other));
          loss += r.weight(row) * (1 - r.at(row, k) / top);
        }
        cheapest = std::min(cheapest, loss);
      }
      total += cheapest;
      begin = end;
    }
    for (int64_t row = 0; row < rows; ++row) weights += r.weight(row);
    best = std::min(best, total / weights);
  }
  return best;
}

TEST(ScheduleLoss, SaysWhatATableLoses) {
  const DraftRates rates{{1, 2, 4}, 3, {10, 20, 40, 10, 30, 20, 50, 40, 30}, {}};
  const ScheduleLoss loss =
      schedule_loss(rates, with_entries({plain_entry(1, 1, 2), plain_entry(2, 4, 1)}, 3));
  ASSERT_EQ(loss.share.size(), 3u);
  EXPECT_DOUBLE_EQ(loss.share[0], 0);
  EXPECT_DOUBLE_EQ(loss.share[1], 0);
  EXPECT_DOUBLE_EQ(loss.share[2], 0.2);
  EXPECT_DOUBLE_EQ(loss.mean, 0.2 / 3);
  EXPECT_EQ(loss.worst_batch, 4);
  EXPECT_EQ(schedule_loss_text(loss),
            "loses 6.7 % of the best rate on average, 20 % at worst (batch size 4)");
  DraftRates weighted = rates;
  weighted.weights = {0, 1, 3};
  EXPECT_DOUBLE_EQ(schedule_loss(weighted, with_entries({plain_entry(1, 4, 1)}, 3)).mean, 0.15);
}

TEST(BestSchedule, EqualsBruteForce) {
  for (uint32_t round = 0; round < 400; ++round) {
    SCOPED_TRACE(fmt::format("TRIMTAB_TEST_SEED={} round {}", test_seed(), round));
    Draws draws(test_seed(), Stream::kTest, round);
    const int64_t batches = 1 + draws.below(9), lengths = 1 + draws.below(6), most = 1 + draws.below(6);
    const DraftRates rates = random_rates(draws, batches, lengths);
    const std::vector<DraftEntry> entries = best_schedule(rates, most);
    EXPECT_LE(static_cast<int64_t>(entries.size()), most);
    const DraftSchedule schedule = with_entries(entries, lengths);
    ASSERT_NO_THROW(check_draft_schedule(schedule, "s"));
    EXPECT_EQ(schedule.entries.back().last_batch, rates.batches.back());
    const double expected = brute_force(rates, most);
    EXPECT_NEAR(schedule_loss(rates, schedule).mean, expected, 1e-12);
    // No more entries than that loss needs.
    if (entries.size() > 1) {
      EXPECT_GT(brute_force(rates, static_cast<int64_t>(entries.size()) - 1), expected + 1e-13);
    }
  }
}

TEST(BestSchedule, MoreEntriesNeverLoseMoreAndAllLoseNothing) {
  for (uint32_t round = 0; round < 20; ++round) {
    SCOPED_TRACE(fmt::format("TRIMTAB_TEST_SEED={} round {}", test_seed(), round));
    Draws draws(test_seed(), Stream::kTest, round, 1);
    const DraftRates rates = random_rates(draws, 60, 9);
    double before = 1;
    for (int64_t most = 1; most <= 60; ++most) {
      const double loss = schedule_loss(rates, with_entries(best_schedule(rates, most), 9)).mean;
      EXPECT_LE(loss, before + 1e-12);
      before = loss;
    }
    EXPECT_EQ(before, 0);
  }
}

TEST(BestSchedule, JoinsAlikeBatchSizesAndFillsHolesUpwards) {
  const DraftRates rates{{1, 2, 8, 16}, 2, {1, 2, 1, 2, 2, 1, 4, 2}, {}};
  EXPECT_EQ(best_schedule(rates, 4),
            (std::vector<DraftEntry>{{1, 2, 1, 2.0, std::nullopt}, {3, 16, 0, 3.0, std::nullopt}}));
}

TEST(BestSchedule, TheLargestTakesNoLong) {
  Draws draws(test_seed(), Stream::kTest, 0, 2);
  const DraftRates rates = random_rates(draws, 1024, 33);
  const std::vector<DraftEntry> entries = best_schedule(rates, 32);
  EXPECT_EQ(entries.size(), 32u);
}

TEST(DraftRates, RefusesWhatIsNoTable) {
  const DraftRates good{{1, 2}, 2, {1, 2, 3, 4}, {}};
  const auto refusal = [&](const std::function<void(DraftRates&)>& change) {
    DraftRates rates = good;
    change(rates);
    return refusal_of([&] { best_schedule(rates, 2); });
  };
  EXPECT_EQ(refusal([](DraftRates&) {}), "no error");
  EXPECT_EQ(refusal([](DraftRates& r) { r.batches.clear(); }),
            "the rates: 0 batch sizes; expected 1 to 4096");
  EXPECT_EQ(refusal([](DraftRates& r) { r.lengths = 0; }),
            "the rates: 0 draft lengths; expected 1 (k = 0 alone) to 129");
  EXPECT_EQ(refusal([](DraftRates& r) { r.tokens_per_s.pop_back(); }),
            "the rates: 3 rates for 2 batch sizes and 2 draft lengths; expected 4");
  EXPECT_EQ(refusal([](DraftRates& r) { r.weights = {1}; }),
            "the rates: 1 weights for 2 batch sizes; expected as many, or none");
  EXPECT_EQ(refusal([](DraftRates& r) {
              r.weights = {0, 0};
            }),
            "the rates: all weights are 0; expected some above it");
  EXPECT_EQ(refusal([](DraftRates& r) {
              r.weights = {0, -1};
            }),
            "the rates: batch size 2: expected a weight from 0 to 1e12, found -1");
  EXPECT_EQ(refusal([](DraftRates& r) { r.batches[1] = 1; }),
            "the rates: batch size 1 after 1; expected rising ones from 1 to 1048576");
  EXPECT_EQ(refusal([](DraftRates& r) { r.batches[0] = 0; }),
            "the rates: batch size 0 after 0; expected rising ones from 1 to 1048576");
  EXPECT_EQ(refusal([](DraftRates& r) { r.tokens_per_s[3] = std::nan(""); }),
            "the rates: batch size 2, k = 1: expected tokens per second from 0 to 1e12, found nan");
  EXPECT_EQ(refusal([](DraftRates& r) { r.tokens_per_s[0] = r.tokens_per_s[1] = 0; }),
            "the rates: batch size 1: no draft length has a rate above 0; leave it out");
  EXPECT_EQ(refusal_of([&] { best_schedule(good, 0); }), "0 entries asked for; expected 1 to 1024");
  EXPECT_EQ(refusal_of([&] { schedule_loss(good, with_entries({plain_entry(1, 1, 0)}, 2)); }),
            "the rates go to batch size 2, the draft schedule to 1; give both the same");
  EXPECT_EQ(refusal_of([&] { schedule_loss(good, with_entries({plain_entry(1, 2, 2)}, 3)); }),
            "the draft schedule has k = 2 at batch size 1, the rates go to 1; measure longer drafts");
}

}  // namespace
}  // namespace trimtab
