// The generator of requests: its statistics, its drift, and that a request is what it is whatever comes before it.
#include "envs/adapter_route/requests.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/config.h"
#include "core/error.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

std::vector<Request> drawn(const RequestOptions& options, int64_t tasks, WorldKey key = {test_seed(), 0}) {
  std::vector<Request> out;
  draw_requests(key, options, tasks, out);
  return out;
}

// Shares of the tasks, largest first.
std::vector<double> shares(const std::vector<Request>& requests, int64_t tasks) {
  std::vector<double> out(tasks);
  for (const Request& r : requests) out[r.task] += 1.0 / static_cast<double>(requests.size());
  std::sort(out.rbegin(), out.rend());
  return out;
}

TEST(Requests, PopularityIsThePowerLaw) {
  constexpr int64_t kTasks = 10;
  for (const double alpha : {0.1, 0.3, 0.6, 1.0}) {
    const std::vector<double> found = shares(drawn({.requests = 40000, .alpha = alpha}, kTasks), kTasks);
    std::vector<double> expected;
    for (int64_t rank = 0; rank < kTasks; ++rank)   // P(X < x) = x^alpha
      expected.push_back(std::pow((rank + 1.0) / kTasks, alpha) - std::pow(static_cast<double>(rank) / kTasks, alpha));
    for (int64_t rank = 0; rank < kTasks; ++rank) EXPECT_NEAR(found[rank], expected[rank], 5 * std::sqrt(0.25 / 40000)) << "alpha " << alpha << " rank " << rank;
  }
}

TEST(Requests, GapsHaveTheirMeanAndCoefficientOfVariation) {
  for (const double cv : {0.0, 0.5, 1.0, 4.0}) {
    const std::vector<Request> requests = drawn({.requests = 60000, .rate = 5, .cv = cv}, 3);
    double sum = 0, squares = 0, last = 0;
    for (const Request& r : requests) {
      const double gap = r.arrival_ms - last;
      EXPECT_GE(gap, 0);
      sum += gap, squares += gap * gap, last = r.arrival_ms;
    }
    const double n = static_cast<double>(requests.size()), mean = sum / n, deviation = std::sqrt(std::max(0.0, squares / n - mean * mean));
    EXPECT_NEAR(mean, 200, 200 * 5 * (cv + 1e-9) / std::sqrt(n)) << cv;
    EXPECT_NEAR(deviation / mean, cv, 0.1 * cv + 1e-6);
  }
}

TEST(Requests, LengthsCoverTheirRangeEvenly) {
  const std::vector<Request> requests = drawn({.requests = 20000, .input_low = 3, .input_high = 6, .output_low = 7, .output_high = 7}, 2);
  std::map<int, int> inputs;
  for (const Request& r : requests) {
    ++inputs[r.input_tokens];
    EXPECT_EQ(r.output_tokens, 7);
  }
  ASSERT_EQ(inputs.size(), 4u);
  EXPECT_EQ(inputs.begin()->first, 3);
  for (const auto& [length, count] : inputs) EXPECT_NEAR(count, 5000, 350) << length;
}

TEST(Requests, BelongToTheirKeyAndNotToTheLengthOfTheEpisode) {
  const RequestOptions options{.requests = 300, .cv = 2, .drift = "slow", .drift_period = 40};
  RequestOptions longer = options;
  longer.requests = 500;
  const std::vector<Request> a = drawn(options, 9), b = drawn(longer, 9), other = drawn(options, 9, {test_seed(), 1});
  int same = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].arrival_ms, b[i].arrival_ms);
    EXPECT_EQ(a[i].task, b[i].task);
    EXPECT_EQ(a[i].input_tokens, b[i].input_tokens);
    same += a[i].arrival_ms == other[i].arrival_ms;
  }
  EXPECT_EQ(same, 0);
}

// Distance between the mixtures of two stretches, 0 to 1.
double distance(const std::vector<Request>& requests, int64_t first, int64_t second, int64_t count, int64_t tasks) {
  std::vector<double> difference(tasks);
  for (int64_t i = 0; i < count; ++i) {
    difference[requests[first + i].task] += 1.0 / static_cast<double>(count);
    difference[requests[second + i].task] -= 1.0 / static_cast<double>(count);
  }
  double out = 0;
  for (const double d : difference) out += std::abs(d) / 2;
  return out;
}

TEST(Requests, DriftChangesTheMixtureAtOnceOrSlowly) {
  constexpr int64_t kPeriod = 4000, kTasks = 12, kPart = 500;
  RequestOptions options{.requests = 2 * kPeriod, .alpha = 0.2, .drift_period = kPeriod};
  double none = 0, across = 0, within = 0, slow_across = 0, slow_within = 0;
  for (uint64_t episode = 0; episode < 8; ++episode) {
    const WorldKey key{test_seed(), episode};
    options.drift = "none";
    none = std::max(none, distance(drawn(options, kTasks, key), kPeriod - kPart, kPeriod, kPart, kTasks));
    options.drift = "abrupt";
    const std::vector<Request> abrupt = drawn(options, kTasks, key);
    across += distance(abrupt, kPeriod - kPart, kPeriod, kPart, kTasks) / 8, within = std::max(within, distance(abrupt, 0, kPeriod - kPart, kPart, kTasks));
    options.drift = "slow";
    const std::vector<Request> slow = drawn(options, kTasks, key);
    slow_across += distance(slow, kPeriod - kPart, kPeriod, kPart, kTasks) / 8, slow_within += distance(slow, 0, kPeriod - kPart, kPart, kTasks) / 8;
  }
  EXPECT_LT(none, 0.15);
  EXPECT_LT(within, 0.15);
  EXPECT_GT(across, 0.3);
  EXPECT_LT(slow_across, 0.2);
  EXPECT_GT(slow_within, 0.3);
}

TEST(Requests, CrossedRangesAreRefused) {
  RequestOptions options;
  options.input_low = 20, options.input_high = 10;
  EXPECT_THROW(options.validate(), ConfigError);
  options = {.output_low = 20, .output_high = 10};
  EXPECT_THROW(options.validate(), ConfigError);
}

}  // namespace
}  // namespace trimtab
