// Routers: what must hold whatever is drawn, and regret against the known truth.
#include "envs/adapter_route/routers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/test_support.h"
#include "envs/adapter_route/regret.h"
#include "policies/bandits/bandit.h"

namespace trimtab {
namespace {

AdapterRouteOptions small(int64_t requests, int64_t slots = 3) {
  AdapterRouteOptions o;
  o.requests.requests = requests;
  o.synthetic.adapters = 8, o.synthetic.tasks = 8, o.synthetic.embedding = 8;
  o.paging.slots = slots;
  return o;
}
AdapterRoute made(const AdapterRouteOptions& o) { return AdapterRoute(o, synthetic_qualities(o.synthetic)); }
double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// Paging is free: the cache-aware index is LinUCB, here another's.
TEST(Routers, WithoutAPricePolarIsPlainLinUcb) {
  AdapterRouteOptions o = small(1500);
  o.w_latency = 0, o.routers.epoch = 100;
  const AdapterRoute env = made(o);
  const WorldKey key{test_seed(), 3};
  const Routed polar = run_router(env, "polar", key), plain = run_router(env, "linucb", key), aware = run_router(env, "aware_lru", key);
  EXPECT_EQ(polar.adapters, plain.adapters);
  EXPECT_EQ(polar.adapters, aware.adapters);
  constexpr double kRange = 20;   // the bandit divides rewards by it, but not its bonus
  BanditOptions options;
  options.alpha = o.routers.alpha / kRange, options.ridge = o.routers.ridge, options.reward_low = -kRange / 2, options.reward_high = kRange / 2;
  const auto bandit = make_bandit("linucb", {.arms = 9, .context = env.source().dimension()}, options, 1);
  AdapterRoute::State s;
  env.reset(s, key);
  int64_t differ = 0;
  for (const int32_t expected : polar.adapters) {
    differ += bandit->choose(s.prompt.x) != expected;
    const Prompt prompt = s.prompt;
    bandit->learn(expected, env.serve(s, {.adapter = expected}).observed);
  }
  EXPECT_LE(differ, 3) << "ties of rounding alone";
}

TEST(Routers, WithRoomForAllNothingIsPagedTwice) {
  const AdapterRoute env = made(small(800, 8));
  for (const std::string& name : router_names()) {
    const Routed r = run_router(env, name, {test_seed(), 1});
    EXPECT_LE(r.end.paging.loads, 8) << name;
    int64_t misses = 0;
    for (const uint8_t hit : r.hit) misses += !hit;
    EXPECT_LE(misses, 8) << name;
  }
}

TEST(Routers, BeladyServesTheSameRoutesWithTheMostHits) {
  AdapterRouteOptions o = small(1000);
  o.requests.drift = "abrupt";
  const AdapterRoute env = made(o);
  for (uint64_t episode = 0; episode < 4; ++episode) {
    const WorldKey key{test_seed(), episode};
    const Routed best = run_router(env, "linucb_belady", key);
    for (const std::string& rule : eviction_names()) {
      const Routed other = run_router(env, "linucb_" + rule, key);
      EXPECT_EQ(other.adapters, best.adapters) << rule;
      EXPECT_LE(other.end.hits, best.end.hits) << rule;
    }
  }
}

TEST(Routers, LruNeverHitsALoopOfOneMoreThanItHolds) {
  const AdapterRoute env = made(small(200));
  std::vector<int32_t> loop;
  for (int i = 0; i < 200; ++i) loop.push_back(i % 4);
  EXPECT_EQ(replay_routes(env, loop, "lru", {test_seed(), 0}).end.hits, 0);
  EXPECT_GT(replay_routes(env, loop, "belady", {test_seed(), 0}).end.hits, 100);
}

TEST(Routers, RepeatThemselvesAndDrawTheSameWorld) {
  const AdapterRoute env = made(small(300));
  const double arrival_ms = run_router(env, "base", {test_seed(), 2}).end.requests.back().arrival_ms;
  for (const std::string& name : router_names()) {
    const Routed a = run_router(env, name, {test_seed(), 2}), b = run_router(env, name, {test_seed(), 2});
    EXPECT_EQ(a.adapters, b.adapters) << name;
    EXPECT_EQ(a.ttft_ms, b.ttft_ms) << name;
    EXPECT_EQ(a.end.requests.back().arrival_ms, arrival_ms) << name;
  }
  EXPECT_THROW(run_router(env, "linucb_clock", {1, 1}), ConfigError);
  EXPECT_THROW(make_router("polar_minus", env, {1, 1}), ConfigError);
}

// No fixed set with the same routing rule is better, and none of the routers is in a stationary world.
TEST(Routers, TheOracleIsAboveAllWhereNothingDrifts) {
  const AdapterRoute env = made(small(2000));
  const WorldKey key{test_seed(), 5};
  const Routed oracle = run_router(env, "oracle", key);
  const double best = sum(oracle.quality) - sum(oracle.price);
  for (const std::string& name : router_names()) {
    const Routed r = run_router(env, name, key);
    EXPECT_LE(sum(r.quality) - sum(r.price), best + 1e-9) << name;
  }
  for (int64_t a = 0; a < 8; ++a) {   // by hand: sets of three that hold a
    std::vector<uint8_t> set(8);
    set[a] = set[(a + 1) % 8] = set[(a + 3) % 8] = 1;
    const std::vector<double> values = env.qualities(key);
    double total = 0;
    for (int64_t t = 0; t < 2000; ++t) {
      double most = values[t * 9 + 8];
      for (int64_t m = 0; m < 8; ++m) most = std::max(most, values[t * 9 + m] - (set[m] ? 0 : env.price(m)));
      total += most;
    }
    EXPECT_LE(total - env.price(a) - env.price((a + 1) % 8) - env.price((a + 3) % 8), best + 1e-9);
  }
}

Regret mean_regret(const std::string& name, const AdapterRouteOptions& options, int worlds) {
  Regret out;
  for (int w = 0; w < worlds; ++w) {
    AdapterRouteOptions o = options;
    o.synthetic.world = static_cast<int64_t>(1000 * test_seed()) + w;
    const AdapterRoute env = made(o);
    const WorldKey key{test_seed(), static_cast<uint64_t>(w)};
    const Regret r = regret_of(run_router(env, name, key), run_router(env, "oracle", key));
    out.routing.resize(r.routing.size()), out.paging.resize(r.paging.size());
    for (size_t t = 0; t < r.routing.size(); ++t) out.routing[t] += r.routing[t] / worlds, out.paging[t] += r.paging[t] / worlds;
  }
  return out;
}

// O(sqrt T) or less for POLAR and POLAR+; a router that does not learn has slope 1, and one that is blind to prices pays them for ever.
TEST(Routers, RegretOfPolarGrowsSlowly) {
  constexpr int64_t kRequests = 8192;
  constexpr int kWorlds = 6;
  const AdapterRouteOptions o = small(kRequests);
  const Regret random = mean_regret("random_lru", o, kWorlds), blind = mean_regret("linucb", o, kWorlds);
  EXPECT_GT(random.slope(kRequests / 16, kRequests), 0.95);
  for (const char* name : {"polar", "polar_plus"}) {
    const Regret r = mean_regret(name, o, kWorlds);
    const double slope = r.slope(kRequests / 16, kRequests);
    RecordProperty(std::string(name) + "_slope", std::to_string(slope));
    EXPECT_LE(slope, 0.6) << name << " regret " << r.total(kRequests);
    EXPECT_GT(r.total(kRequests), 0) << name;
    EXPECT_LT(r.total(kRequests), 0.5 * blind.total(kRequests)) << name;
    EXPECT_LT(r.total(kRequests), 0.1 * random.total(kRequests)) << name;
  }
}

// A power of the requests is a line on log axes; what has no logarithm has no slope.
TEST(Routers, TheSlopeOfRegretIsItsPower) {
  for (const double power : {0.25, 0.5, 1.0, 1.5}) {
    Regret r;
    for (int t = 1; t <= 4096; ++t) r.routing.push_back(5 * std::pow(t, power)), r.paging.push_back(-2 * std::pow(t, power));
    EXPECT_NEAR(r.slope(256, 4096), power, 1e-3);
    EXPECT_TRUE(std::isnan(r.slope(0, 4096)));
    EXPECT_TRUE(std::isnan(r.slope(4096, 4096)));
    for (double& v : r.routing) v = -v;
    EXPECT_TRUE(std::isnan(r.slope(256, 4096)));
  }
}

TEST(Routers, RegretIsItsTwoParts) {
  const AdapterRoute env = made(small(400));
  const Routed r = run_router(env, "linucb_lru", {1, 1}), oracle = run_router(env, "oracle", {1, 1});
  const Regret regret = regret_of(r, oracle);
  EXPECT_NEAR(regret.total(400), sum(oracle.quality) - sum(oracle.price) - sum(r.quality) + sum(r.price), 1e-9);
}

TEST(Routers, PolarPlusForcesEveryModelOften) {
  const AdapterRoute env = made(small(4096));
  const Routed r = run_router(env, "polar_plus", {test_seed(), 0});
  std::vector<int64_t> counts(9);
  for (const int32_t a : r.adapters) ++counts[a];
  for (const int64_t n : counts) EXPECT_GE(n, static_cast<int64_t>(env.options().routers.explore * 9 * std::log(2000.0)));
}

}  // namespace
}  // namespace trimtab
