// Loads and their channels, who makes room, and which adapters are best kept: against sums by hand, and against all sets there are.
#include "envs/adapter_route/paging.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "envs/adapter_route/eviction.h"
#include "envs/adapter_route/resident_set.h"

namespace trimtab {
namespace {

PagingOptions even(int64_t slots, int64_t channels = 0) {
  return {.slots = slots, .ranks = {8}, .medium = "custom", .bandwidth_gb_s = 1, .setup_ms = 2, .channels = channels};
}

TEST(Paging, ALoadTakesSetupAndBytes) {
  const Paging host({.ranks = {8, 64}, .medium = "host"}, 2), disk({.ranks = {8, 64}, .medium = "disk"}, 2);
  EXPECT_EQ(host.bytes(0), 2523136 * 8 * 2);
  EXPECT_NEAR(host.load_ms(0), 0.2 + 1.6148, 1e-3);   // 40.4 MB at 25 GB/s
  EXPECT_NEAR(host.load_ms(1), 0.2 + 12.9185, 1e-3);
  EXPECT_NEAR(disk.load_ms(1), 0.5 + 107.654, 1e-2);
}

TEST(Paging, OneChannelLoadsOneAfterTheOtherMoreSideBySide) {
  for (const int64_t channels : {1, 2, 0}) {
    const Paging paging(even(4, channels), 4);
    PagingState s;
    paging.begin(s);
    const double one = paging.load_ms(0);
    EXPECT_DOUBLE_EQ(paging.load(s, 0, 10), 10 + one);
    EXPECT_DOUBLE_EQ(paging.load(s, 1, 10), channels == 1 ? 10 + 2 * one : 10 + one);
    EXPECT_DOUBLE_EQ(paging.load_passing(s, 2, 10), channels == 0 ? 10 + one : channels == 1 ? 10 + 3 * one : 10 + 2 * one);
    EXPECT_DOUBLE_EQ(paging.arrives_ms(s, 0, 11), 10 + one) << "on its way";
    EXPECT_DOUBLE_EQ(paging.arrives_ms(s, 0, 1e6), 1e6) << "there";
    EXPECT_EQ(s.residents, 2);
    EXPECT_EQ(s.paged_bytes, 3 * paging.bytes(0));
  }
}

TEST(Paging, RoomIsSlotsOrBytes) {
  const Paging slots(even(2), 5);
  PagingState s;
  slots.begin(s);
  slots.load(s, 3, 0), slots.load(s, 1, 0);
  EXPECT_FALSE(slots.has_room(s, 0));
  slots.evict(s, 3);
  EXPECT_TRUE(slots.has_room(s, 0));
  PagingOptions o{.budget_mb = 400, .ranks = {64, 8}};
  const Paging bytes(o, 4);
  bytes.begin(s);
  bytes.load(s, 0, 0);   // 323 MB
  EXPECT_FALSE(bytes.has_room(s, 2));
  bytes.load(s, 1, 0);   // 40 MB
  EXPECT_FALSE(bytes.has_room(s, 3));
  EXPECT_EQ(bytes.slots(), 1);
  o.budget_mb = 100;
  EXPECT_THROW(Paging(o, 4), ConfigError);
}

struct Cache {
  Paging paging;
  PagingState s;
  int64_t hits = 0;
  Cache(const PagingOptions& o, int64_t adapters) : paging(o, adapters) { paging.begin(s); }
  void ask(int64_t adapter, Eviction rule, std::span<const int32_t> future = {}) {
    ++s.clock;
    if (s.adapters[adapter].resident) {
      ++hits;
    } else {
      while (!paging.has_room(s, adapter)) paging.evict(s, victim(rule, s, {}, future));
      paging.load(s, adapter, 0);
    }
    paging.use(s, adapter);
  }
};
int64_t hits_of(const std::vector<int32_t>& asked, const PagingOptions& o, int64_t adapters, Eviction rule) {
  Cache cache(o, adapters);
  for (size_t i = 0; i < asked.size(); ++i) cache.ask(asked[i], rule, std::span(asked).subspan(i + 1));
  return cache.hits;
}

TEST(Evictions, LruNeverHitsALoopOfOneMoreThanItHolds) {
  for (const int64_t slots : {1, 2, 5}) {
    std::vector<int32_t> loop;
    for (int i = 0; i < 200; ++i) loop.push_back(static_cast<int32_t>(i % (slots + 1)));
    EXPECT_EQ(hits_of(loop, even(slots), slots + 1, Eviction::kLru), 0);
    EXPECT_EQ(hits_of(loop, even(slots), slots + 1, Eviction::kFifo), 0);
    EXPECT_GE(hits_of(loop, even(slots), slots + 1, Eviction::kBelady), 200 * (slots - 1) / (slots + 1));
  }
}

TEST(Evictions, BeladyHitsAtLeastAsOftenAsAllOthers) {
  for (uint32_t c = 0; c < 60; ++c) {
    Draws d(test_seed(), Stream::kTest, c);
    const int64_t adapters = 2 + d.below(12), slots = 1 + d.below(static_cast<uint32_t>(adapters));
    const double alpha = d.uniform(0.1f, 1);
    std::vector<int32_t> asked;
    for (int i = 0; i < 300; ++i) asked.push_back(static_cast<int32_t>(std::pow(d.uniform(), 1 / alpha) * static_cast<double>(adapters)));
    const int64_t most = hits_of(asked, even(slots), adapters, Eviction::kBelady);
    for (const std::string& rule : eviction_names()) EXPECT_LE(hits_of(asked, even(slots), adapters, eviction_of(rule)), most) << rule << " case " << c;
  }
}

TEST(Evictions, ChooseByTheirBooks) {
  const std::vector<int32_t> asked = {0, 0, 0, 1, 1, 2, 0};   // then 3 comes: 0 is oldest in, 1 was used longest ago, 2 least often
  const auto leaves = [&](Eviction rule, const PagingOptions& o) {
    Cache cache(o, 4);
    for (const int32_t a : asked) cache.ask(a, rule);
    return victim(rule, cache.s);
  };
  EXPECT_EQ(leaves(Eviction::kFifo, even(3)), 0);
  EXPECT_EQ(leaves(Eviction::kLru, even(3)), 1);
  EXPECT_EQ(leaves(Eviction::kLfu, even(3)), 2);
  // With a setup time small adapters are worth more by the byte: the large one goes.
  PagingOptions o = even(3);
  o.ranks = {64, 8, 8, 8};
  EXPECT_EQ(leaves(Eviction::kGreedyDual, o), 0);
  Cache cache(even(3), 4);
  for (const int32_t a : asked) cache.ask(a, Eviction::kLru);
  const std::vector<uint8_t> keep = {0, 1, 0, 0};
  EXPECT_EQ(victim(Eviction::kLru, cache.s, keep), 2);
  EXPECT_EQ(victim(Eviction::kLru, cache.s, std::vector<uint8_t>(4, 1)), -1);
  EXPECT_THROW(eviction_of("clock"), ConfigError);
}

// A favourite of long ago goes where counts fade, and stays for ever where they do not.
TEST(Evictions, AgeingForgets) {
  for (const Eviction rule : {Eviction::kLfu, Eviction::kLfuAged}) {
    Cache cache(even(2), 4);
    for (int i = 0; i < 500; ++i) cache.ask(0, rule);
    for (int i = 0; i < 800; ++i) cache.ask(1 + i % 2, rule);
    EXPECT_EQ(cache.s.adapters[0].resident, rule == Eviction::kLfu);
  }
}

// All sets of `slots` among `adapters`.
double best_value(const ResidentProblem& p, int64_t slots) {
  const auto adapters = std::ssize(p.prices);
  double best = -1e300;
  for (uint32_t bits = 0; bits < 1u << adapters; ++bits) {
    std::vector<uint8_t> set(adapters);
    for (int64_t a = 0; a < adapters; ++a) set[a] = bits >> a & 1;
    if (std::count(set.begin(), set.end(), 1) <= slots) best = std::max(best, resident_value(p, set));
  }
  return best;
}

TEST(ResidentSets, AreNearTheBestOfAllSets) {
  for (uint32_t c = 0; c < 40; ++c) {
    Draws d(test_seed(), Stream::kTest, c, 7);
    const int64_t adapters = 2 + d.below(7), slots = 1 + d.below(static_cast<uint32_t>(adapters)), requests = 30;
    std::vector<double> values, prices;
    for (int64_t i = 0; i < requests * (adapters + 1); ++i) values.push_back(d.uniform());
    for (int64_t a = 0; a < adapters; ++a) prices.push_back(d.uniform(0, 0.3f));
    ResidentProblem p{values, prices, std::vector<uint8_t>(adapters), 1};
    int64_t before = 0;
    for (int64_t a = 0; a < adapters && before < slots; ++a) before += p.before[a] = d.below(2);
    const Paging paging(even(slots), adapters);
    const std::vector<uint8_t> found = best_residents(p, paging);
    EXPECT_LE(std::count(found.begin(), found.end(), 1), slots);
    const double none = resident_value(p, std::vector<uint8_t>(adapters)), gain = resident_value(p, found) - none, most = best_value(p, slots) - none;
    EXPECT_GE(gain, 0.9 * most - 1e-9) << "case " << c;
  }
}

TEST(ResidentSets, KeepToTheirBytesAndStayWhereNothingIsGained) {
  const PagingOptions o{.budget_mb = 450, .ranks = {64, 8}};   // a large one and three small ones
  const Paging paging(o, 8);
  const std::vector<double> prices(8, 0.1);
  std::vector<double> values;
  Draws d(test_seed(), Stream::kTest);
  for (int i = 0; i < 50 * 9; ++i) values.push_back(d.uniform());
  const std::vector<uint8_t> found = best_residents({values, prices, std::vector<uint8_t>(8), 1}, paging);
  int64_t bytes = 0;
  for (int64_t a = 0; a < 8; ++a) bytes += found[a] ? paging.bytes(a) : 0;
  EXPECT_LE(bytes, 450 * 1000000);
  EXPECT_GT(bytes, 0);
  const std::vector<uint8_t> before = {0, 1, 0, 1, 0, 0, 0, 0};
  EXPECT_EQ(best_residents({std::vector<double>(50 * 9, 0.5), prices, before, 1}, paging), before);
}

}  // namespace
}  // namespace trimtab
