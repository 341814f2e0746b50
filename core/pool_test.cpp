// Every task once, errors out, nested runs.
#include "core/pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace trimtab {
namespace {

TEST(Pool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3}) {
    Pool pool(threads);
    for (int64_t count : {0, 1, 2, 100}) {
      std::vector<std::atomic<int>> seen(count);
      pool.run(count, [&](int64_t i) { ++seen[i]; });
      for (const auto& s : seen) EXPECT_EQ(s, 1);
    }
  }
}

TEST(Pool, ManySmallRounds) {
  Pool pool(2);
  std::atomic<int64_t> sum = 0;
  for (int round = 0; round < 5000; ++round) pool.run(3, [&](int64_t i) { sum += i; });
  EXPECT_EQ(sum, 15000);
}

TEST(Pool, RethrowsAndGoesOn) {
  Pool pool(2);
  EXPECT_THROW(pool.run(8,
                        [](int64_t i) {
                          if (i == 5) throw std::runtime_error("five");
                        }),
               std::runtime_error);
  std::atomic<int> done = 0;
  pool.run(8, [&](int64_t) { ++done; });
  EXPECT_EQ(done, 8);
}

TEST(Pool, NestedRunsStayOnTheirThread) {
  Pool pool(2);
  std::atomic<int> done = 0;
  pool.run(4, [&](int64_t) { pool.run(5, [&](int64_t) { ++done; }); });
  EXPECT_EQ(done, 20);
}

}  // namespace
}  // namespace trimtab
