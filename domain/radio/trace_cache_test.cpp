// The cache of drops: its bound, its order, its threads.
#include "domain/radio/trace_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

namespace trimtab::radio {
namespace {

DropGains drop_of(size_t floats, float value = 0) {
  DropGains out;
  out.gain.assign(floats, value);
  return out;
}

TEST(DropCache, KeepsTheLatestWithinItsBound) {
  DropCache cache(3 * 400);
  int made = 0;
  const auto ask = [&](int64_t drop) {
    cache.find(1, drop, [&] {
      ++made;
      return drop_of(100);
    });
  };
  for (const int64_t drop : {0, 1, 2}) ask(drop);
  EXPECT_EQ(cache.bytes(), 1200u);
  ask(0);  // now 1 is the oldest
  EXPECT_EQ(made, 3);
  ask(3);
  EXPECT_EQ(cache.bytes(), 1200u);
  ask(0);
  EXPECT_EQ(made, 4);
  ask(1);
  EXPECT_EQ(made, 5);
}

TEST(DropCache, HandsOutWhatIsTooLargeToKeep) {
  DropCache cache(100);
  EXPECT_EQ(cache.find(1, 0, [] { return drop_of(1000); })->gain.size(), 1000u);
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(DropCache, ForgetsASource) {
  DropCache cache(1 << 20);
  const int64_t first = cache.new_source(), second = cache.new_source();
  cache.find(first, 0, [] { return drop_of(10); });
  cache.find(first, 1, [] { return drop_of(10); });
  cache.find(second, 0, [] { return drop_of(20); });
  cache.forget(first);
  EXPECT_EQ(cache.bytes(), 80u);
  cache.forget(second);
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(DropCache, PassesErrorsOnAndTriesAgain) {
  DropCache cache(1 << 20);
  EXPECT_THROW(cache.find(1, 0, []() -> DropGains { throw std::runtime_error("bad"); }), std::runtime_error);
  EXPECT_EQ(cache.find(1, 0, [] { return drop_of(5, 3.0f); })->gain[0], 3.0f);
}

TEST(DropCache, ThreadsThatWantOneDropMakeItOnce) {
  DropCache cache(1 << 20);
  std::atomic<int> made = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int64_t drop = 0; drop < 50; ++drop) {
        const auto gains = cache.find(1, drop, [&] {
          ++made;
          return drop_of(16, static_cast<float>(drop));
        });
        EXPECT_EQ(gains->gain[7], static_cast<float>(drop));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(made, 50);
}

}  // namespace
}  // namespace trimtab::radio
