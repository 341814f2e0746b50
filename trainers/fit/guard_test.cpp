#include "trainers/fit/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"

namespace trimtab {
namespace {

std::string bad() { return "the gradient of 'w' is not finite"; }

TEST(StepGuard, StopsByDefaultAndNamesWhatIsBad) {
  StepGuard guard({});
  EXPECT_TRUE(guard.take(1, 1, bad));
  for (const double number : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    try {
      guard.take(1, number, bad);
      FAIL() << "taken";
    } catch (const RunError& error) {
      EXPECT_NE(std::string(error.what()).find("gradient of 'w'"), std::string::npos);
    }
    EXPECT_THROW(guard.take(number, 1, bad), RunError);
  }
  EXPECT_TRUE(guard.metrics().empty());
}

TEST(StepGuard, SkipsWhereAskedAndCounts) {
  StepGuard guard({.non_finite = "skip"});
  int explained = 0;
  const auto explain = [&] { return ++explained, bad(); };
  EXPECT_FALSE(guard.take(NAN, 1, explain));
  EXPECT_TRUE(guard.take(1, 1, explain));
  EXPECT_FALSE(guard.take(1, INFINITY, explain));
  EXPECT_EQ(explained, 2);
  ASSERT_EQ(guard.metrics().size(), 1u);
  EXPECT_EQ(guard.metrics()[0].first, "guard/not_finite");
  EXPECT_EQ(guard.metrics()[0].second, 2);
}

// Deterministic values around 1 with a deviation near 0.05.
double ordinary(int i) { return 1 + 0.07 * std::sin(1.7 * i); }

TEST(StepGuard, ASpikeIsLeftOutAndAChangeThatLastsIsNot) {
  StepGuard guard({.non_finite = "stop", .spike = 6, .window = 32});
  for (int i = 0; i < 15; ++i) EXPECT_TRUE(guard.take(1, 100.0 * (i + 1), bad)) << "there is nothing to compare with yet";
  guard = StepGuard({.non_finite = "stop", .spike = 6, .window = 32});
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(guard.take(ordinary(i), ordinary(i + 3), bad)) << i;
  EXPECT_FALSE(guard.take(ordinary(40), 3, bad));
  EXPECT_FALSE(guard.take(3, ordinary(40), bad));
  EXPECT_TRUE(guard.take(ordinary(41), ordinary(41), bad));
  EXPECT_TRUE(guard.take(0.01, ordinary(42), bad)) << "below is no spike";
  int refused = 0;
  for (int i = 0; i < 64; ++i) refused += !guard.take(10 * ordinary(i), 10 * ordinary(i), bad);
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 16);
}

TEST(StepGuard, RemembersOverACheckpoint) {
  const GuardBlock options{.non_finite = "skip", .spike = 6, .window = 32};
  StepGuard a(options), b(options);
  for (int i = 0; i < 30; ++i) a.take(ordinary(i), ordinary(i), bad);
  a.take(NAN, 1, bad);
  b.restore(nlohmann::json::parse(a.to_json().dump()));
  EXPECT_EQ(a.metrics(), b.metrics());
  for (const double norm : {1.0, 1.3, 1.6, 5.0}) EXPECT_EQ(a.take(1, norm, bad), b.take(1, norm, bad)) << norm;
}

}  // namespace
}  // namespace trimtab
