// Pages, against a list of which are taken.
#include "engine/adapters/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "engine/adapters/adapter_cases.h"

namespace trimtab {
namespace {

// First page of the first free run of so many pages, or -1; and the longest.
int64_t first_fit(const std::vector<bool>& taken, int64_t pages) {
  int64_t run = 0;
  for (size_t i = 0; i < taken.size(); ++i)
    if (run = taken[i] ? 0 : run + 1; run == pages) return static_cast<int64_t>(i) + 1 - pages;
  return -1;
}
int64_t longest(const std::vector<bool>& taken) {
  int64_t out = 0;
  while (first_fit(taken, out + 1) >= 0) ++out;
  return out;
}

TEST(PagePool, TakesTheFirstRunThatFits) {
  Draws draws(test_seed(), Stream::kTest, 42);
  for (int round = 0; round < 20; ++round) {
    const int64_t pages = 1 + draws.below(40);
    PagePool pool(pages * 64 + draws.below(64), 64);
    std::vector<bool> taken(pages);
    std::vector<PageRun> runs;
    for (int step = 0; step < 200; ++step) {
      if (draws.below(2) == 0 && !runs.empty()) {
        std::swap(runs[draws.below(static_cast<uint32_t>(runs.size()))], runs.back());
        pool.give_back(runs.back());
        for (int64_t i = 0; i < runs.back().pages; ++i) taken[runs.back().first + i] = false;
        runs.pop_back();
      } else {
        const int64_t wanted = 1 + draws.below(8), want = first_fit(taken, wanted);
        const auto got = pool.take(wanted);
        ASSERT_EQ(got ? got->first : -1, want);
        if (!got) continue;
        for (int64_t i = 0; i < wanted; ++i) taken[want + i] = true;
        runs.push_back(*got);
      }
      ASSERT_EQ(pool.bytes_in_use(), 64 * std::count(taken.begin(), taken.end(), true));
      ASSERT_EQ(pool.largest_run(), longest(taken));
    }
    EXPECT_EQ(pool.bytes(), pages * 64);
  }
}

TEST(PagePool, PagesAreAlignedMemory) {
  PagePool pool(1000, 128);
  const PageRun first = *pool.take(3), second = *pool.take(4);
  EXPECT_FALSE(pool.take(1));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.data(first)) % 64, 0u);
  EXPECT_EQ(pool.data(second), pool.data(first) + 3 * 128);
  std::fill_n(pool.data(first), 7 * 128, uint8_t{1});
}

TEST(PagePool, WrongSizesAreRefused) {
  EXPECT_EQ(lacks(said<ConfigError>([] { PagePool(100, 128); }), {"100", "128", "more bytes"}), "");
  EXPECT_EQ(lacks(said<ConfigError>([] { PagePool(1000, 100); }), {"100", "64"}), "");
  EXPECT_EQ(lacks(said<ConfigError>([] { PagePool(1000, 0); }), {"64"}), "");
}

}  // namespace
}  // namespace trimtab
