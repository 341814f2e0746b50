// The bootstrap against closed forms: coverage, pairing, crossing with seeds, missing values, frontier
// interpolation.
#include "app/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/random.h"

namespace trimtab {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

Values column_values(const std::vector<double>& values) {
  Values out(1, static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) out.at(0, static_cast<int64_t>(i)) = values[i];
  return out;
}

TEST(Quantiles, MatchTables) {
  EXPECT_NEAR(normal_quantile(0.975), 1.959964, 1e-6);
  EXPECT_NEAR(student_t_quantile(0.975, 1), 12.706205, 1e-5);
  EXPECT_NEAR(student_t_quantile(0.975, 2), 4.302653, 1e-5);
  EXPECT_NEAR(student_t_quantile(0.975, 3), 3.182446, 0.032);
  EXPECT_NEAR(student_t_quantile(0.975, 5), 2.570582, 0.004);
  EXPECT_NEAR(student_t_quantile(0.975, 29), 2.045230, 1e-5);
}

TEST(Bootstrap, IntervalOfAMeanAgreesWithStudent) {
  const int64_t n = 30;
  Draws draws(test_seed(), Stream::kTest, 1);
  std::vector<double> x(n);
  double mean = 0, square = 0;
  for (double& value : x) mean += (value = 5 + 2 * draws.normal()) / n;
  for (const double value : x) square += (value - mean) * (value - mean);
  const double half = 2.045230 * std::sqrt(square / (n - 1) / n);
  const Bootstrap bootstrap({n}, 1, 7);
  const Interval interval = bootstrap.interval(bootstrap.means(column_values(x)), n);
  EXPECT_NEAR(interval.mean, mean, 1e-12);
  EXPECT_NEAR(interval.low, mean - half, 0.12 * half);
  EXPECT_NEAR(interval.high, mean + half, 0.12 * half);
  EXPECT_EQ(interval.n, n);
}

TEST(Bootstrap, CoversTheTruthAboutAsOftenAsItSays) {
  const int64_t n = 8, trials = 1000;
  const Bootstrap bootstrap({n}, 1, 3, 1000);
  int covered = 0;
  for (int64_t t = 0; t < trials; ++t) {
    Draws draws(test_seed(), Stream::kTest, 2, static_cast<uint32_t>(t));
    std::vector<double> x(n);
    for (double& value : x) value = draws.normal();
    const Interval interval = bootstrap.interval(bootstrap.means(column_values(x)), n);
    covered += interval.low <= 0 && 0 <= interval.high;
  }
  // 95 % nominal; four standard deviations of the binomial are 2.8 %. A plain percentile interval covers
  // about 89 % here.
  EXPECT_GT(covered, 0.91 * trials);
  EXPECT_LT(covered, 0.995 * trials);
}

TEST(Bootstrap, PairingRemovesWhatBothShare) {
  const int64_t n = 20;
  Draws draws(test_seed(), Stream::kTest, 3);
  Values a(1, n), b(1, n);
  for (int64_t e = 0; e < n; ++e) {
    const double world = 50 + 30 * draws.uniform();
    b.at(0, e) = world;
    a.at(0, e) = 1.1 * world;
  }
  const Bootstrap bootstrap({n}, 1, 11);
  const auto mean_a = bootstrap.means(a), mean_b = bootstrap.means(b);
  const Interval paired = bootstrap.interval(ratio(mean_a, mean_b), n);
  EXPECT_NEAR(paired.low, 1.1, 1e-12);
  EXPECT_NEAR(paired.high, 1.1, 1e-12);
  const Interval unpaired = bootstrap.interval(mean_a, n);
  EXPECT_GT(unpaired.high - unpaired.low, 1.0);
  EXPECT_NEAR(bootstrap.interval(difference(mean_a, mean_b), n).mean, mean_a[0] - mean_b[0], 1e-12);
}

TEST(Bootstrap, SeedsAreASecondSourceOfSpread) {
  const int64_t n = 20, seeds = 5;
  Values same(seeds, n), different(seeds, n);
  for (int64_t s = 0; s < seeds; ++s) {
    for (int64_t e = 0; e < n; ++e) {
      same.at(s, e) = static_cast<double>(e);
      different.at(s, e) = static_cast<double>(e) + 10.0 * static_cast<double>(s - 2);
    }
  }
  const Bootstrap bootstrap({n}, seeds, 5);
  const Interval narrow = bootstrap.interval(bootstrap.means(same), n);
  const Interval wide = bootstrap.interval(bootstrap.means(different), n);
  EXPECT_NEAR(narrow.mean, wide.mean, 1e-12);
  EXPECT_GT(wide.high - wide.low, 3 * (narrow.high - narrow.low));
}

TEST(Bootstrap, FilesAreStrataOfTheirOwn) {
  // Two files with constant values: resampling within files cannot move the overall mean.
  const Bootstrap bootstrap({3, 5}, 1, 9);
  const Interval interval = bootstrap.interval(bootstrap.means(column_values({1, 1, 1, 9, 9, 9, 9, 9})), 8);
  EXPECT_DOUBLE_EQ(interval.low, 6.0);
  EXPECT_DOUBLE_EQ(interval.high, 6.0);
}

TEST(Bootstrap, UndefinedValuesLeaveTheMean) {
  const Bootstrap bootstrap({4}, 1, 9);
  Values values = column_values({2, kNaN, 4, kNaN});
  EXPECT_DOUBLE_EQ(bootstrap.means(values)[0], 3.0);
  EXPECT_EQ(values.count_defined(), 2);
  Values other = column_values({1, 1, kNaN, 1});
  match(values, other);
  EXPECT_EQ(values.count_defined(), 1);
  EXPECT_EQ(other.count_defined(), 1);
  EXPECT_DOUBLE_EQ(bootstrap.means(other)[0], 1.0);
}

TEST(Bootstrap, OneEpisodeHasNoInterval) {
  const Bootstrap bootstrap({1}, 1, 9);
  const Interval interval = bootstrap.interval(bootstrap.means(column_values({4})), 1);
  EXPECT_EQ(interval.mean, 4);
  EXPECT_TRUE(std::isnan(interval.low));
}

TEST(Bootstrap, SameSeedSameInterval) {
  const Values values = column_values({1, 5, 2, 8, 3});
  const Bootstrap a({5}, 2, 4), b({5}, 2, 4), c({5}, 2, 5);
  EXPECT_EQ(a.means(values), b.means(values));
  EXPECT_NE(a.means(values), c.means(values));
}

TEST(Frontier, InterpolatesClampsAndTakesTheBestRival) {
  const std::vector<double> x = {0.4, 0.6, 0.8}, y = {80, 70, 50};
  EXPECT_DOUBLE_EQ(frontier_height(x, y, 0.5).y, 75);
  EXPECT_DOUBLE_EQ(frontier_height(x, y, 0.7).y, 60);
  EXPECT_DOUBLE_EQ(frontier_height(x, y, 0.8).y, 50);
  EXPECT_FALSE(frontier_height(x, y, 0.8).clamped);
  EXPECT_DOUBLE_EQ(frontier_height(x, y, 0.9).y, 50);
  EXPECT_TRUE(frontier_height(x, y, 0.9).clamped);
  EXPECT_DOUBLE_EQ(frontier_height(x, y, 0.1).y, 80);
  EXPECT_TRUE(frontier_height(x, y, 0.1).clamped);
  const std::vector<double> back = {0.4, 0.8, 0.6},
                            heights = {80, 50, 76};  // the last segment lies above the first
  EXPECT_DOUBLE_EQ(frontier_height(back, heights, 0.7).y, 63);
}

}  // namespace
}  // namespace trimtab
