// What bandits learn: how their regret grows, beside players that must fail the same bar.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/random.h"
#include "core/test_support.h"
#include "policies/bandits/bandit.h"

namespace trimtab {
namespace {

using Doubles = std::vector<double>;

struct Player {
  std::string name;
  BanditOptions options;
};
const Player kUniform = {"epsilon_greedy", {.epsilon = 1}}, kGreedy = {"epsilon_greedy", {.epsilon = 0}};

// Slope of log(y) on log(x).
double log_slope(const Doubles& x, const Doubles& y) {
  double mx = 0, my = 0, xy = 0, xx = 0;
  for (size_t i = 0; i < x.size(); ++i) mx += std::log(x[i]) / x.size(), my += std::log(y[i]) / y.size();
  for (size_t i = 0; i < x.size(); ++i) xy += (std::log(x[i]) - mx) * (std::log(y[i]) - my), xx += std::pow(std::log(x[i]) - mx, 2);
  return xy / xx;
}

// An instance without context: means of the arms in a round, and a reward drawn around one.
struct Instance {
  std::function<const Doubles&(uint32_t round)> means;
  std::function<double(double mean, Draws& draws)> reward;
};
double bernoulli(double mean, Draws& draws) { return draws.uniform() < mean; }
double gaussian(double mean, Draws& draws) { return mean + 0.3 * draws.normal(); }
double certain(double mean, Draws&) { return mean; }

// Expected regret against the best arm of each round after 2^k rounds, k = first..last, averaged over runs.
Doubles regrets(const Player& player, const Instance& instance, int first, int last, uint32_t runs) {
  Doubles out(last - first + 1);
  const BanditShape shape{static_cast<int64_t>(instance.means(0).size()), 0};
  for (uint32_t run = 0; run < runs; ++run) {
    const auto bandit = make_bandit(player.name, shape, player.options, test_seed() * 10000 + run);
    double regret = 0;
    for (uint32_t t = 0; t < (1u << last); ++t) {
      const Doubles& means = instance.means(t);
      const int arm = bandit->choose({});
      Draws draws(test_seed(), Stream::kTest, 85, run, t);
      bandit->learn(arm, instance.reward(means[arm], draws));
      regret += *std::max_element(means.begin(), means.end()) - means[arm];
      for (int k = first; k <= last; ++k)
        if (t + 1 == (1u << k)) out[k - first] += regret / runs;
    }
  }
  return out;
}
Doubles powers(int first, int last) {
  Doubles out;
  for (int k = first; k <= last; ++k) out.push_back(std::exp2(k));
  return out;
}

// Logarithmic regret adds the same from each power of two to the next: slope 0. Linear regret doubles that: slope 1.
double growth(const Player& player, const Instance& instance) {
  const Doubles at = regrets(player, instance, 10, 15, 32);
  Doubles added;
  for (size_t i = 1; i < at.size(); ++i) added.push_back(std::max(1e-3, at[i] - at[i - 1]));
  return log_slope(powers(11, 15), added);
}

TEST(Regret, OfUcb1GrowsLogarithmically) {
  const Doubles means = {0.35, 0.65, 0.3};
  for (const auto& reward : {bernoulli, gaussian}) {
    const Instance instance{[&](uint32_t) -> const Doubles& { return means; }, reward};
    EXPECT_LT(growth({"ucb1", {}}, instance), 0.4);
    EXPECT_GT(growth(kUniform, instance), 0.9);
    EXPECT_GT(growth(kGreedy, instance), 0.9);
  }
}

// Two arms earn in turn. Whoever follows the leader, even seeing both rewards, is always a round late and earns nothing, while either
// arm alone earns half. Regret is against such an arm.
TEST(Regret, OfExp3IsSublinearWhereTheBestArmAlternates) {
  const Doubles even = {0, 1}, odd = {1, 0};
  const Instance instance{[&](uint32_t t) -> const Doubles& { return t % 2 == 0 ? even : odd; }, certain};
  const Doubles rounds = powers(6, 13);
  Doubles at = regrets({"exp3", {}}, instance, 6, 13, 2000), follower;   // so many, since regret is a third of its deviation
  Doubles earned(2);
  double own = 0;
  for (uint32_t t = 0; t < (1u << 13); ++t) {
    const Doubles& now = instance.means(t);
    own += now[earned[1] > earned[0]];
    for (int arm = 0; arm < 2; ++arm) earned[arm] += now[arm];
    if (t + 1 == rounds[follower.size()]) follower.push_back((t + 1) / 2.0 - own);
  }
  for (size_t i = 0; i < at.size(); ++i) {
    at[i] -= rounds[i] / 2;   // the best of each round earns 1, the best single arm 1/2
    EXPECT_LT(at[i], 2 * std::sqrt(rounds[i] * 2 * std::log(2.0))) << "the bound, after " << rounds[i];
    at[i] = std::max(0.1, at[i]);
  }
  EXPECT_LT(log_slope(rounds, at), 0.6);
  EXPECT_GT(log_slope(rounds, follower), 0.99);
}

// An adversary that knows each rule but not its draws: it gives 1 to the arm a follower of the leader would not choose now.
TEST(Regret, OfExp3IsSublinearWhereTheLeaderIsPunished) {
  const auto play = [](const Player& player, int last) {
    double regret = 0;
    for (uint32_t run = 0; run < 200; ++run) {
      const auto bandit = make_bandit(player.name, {2, 0}, player.options, test_seed() * 10000 + run);
      Doubles earned(2);
      double own = 0;
      for (uint32_t t = 0; t < (1u << last); ++t) {
        const int leader = bandit->best({}), arm = bandit->choose({});
        const double reward = arm != leader;
        bandit->learn(arm, reward);
        own += reward, earned[1 - leader] += 1;
      }
      regret += (std::max(earned[0], earned[1]) - own) / 200;
    }
    return std::max(1e-3, regret);
  };
  const auto slope = [&](const Player& player) {
    Doubles at;
    for (int k = 8; k <= 13; ++k) at.push_back(play(player, k));
    return log_slope(powers(8, 13), at);
  };
  EXPECT_LT(slope({"exp3", {}}), 0.6);
  EXPECT_GT(slope(kGreedy), 0.9);
}

TEST(Regret, OfThompsonIsBelowEpsilonGreedy) {
  const Doubles means = {0.5, 0.45, 0.7, 0.4, 0.3};
  for (const auto& reward : {bernoulli, gaussian}) {
    const Instance instance{[&](uint32_t) -> const Doubles& { return means; }, reward};
    const auto final_regret = [&](const Player& player) { return regrets(player, instance, 14, 14, 24)[0]; };
    const double thompson = final_regret({"thompson", {}});
    EXPECT_LT(thompson, 0.5 * final_regret({"epsilon_greedy", {.epsilon = 0.1}}));
    EXPECT_LT(thompson, final_regret({"epsilon_greedy", {.epsilon = 0.02}}));
    EXPECT_LT(thompson, final_regret({"ucb1", {}}));
    EXPECT_LT(growth({"thompson", {}}, instance), 0.4);
  }
}

// The best arm spoils. Whoever remembers all it ever earned leaves it late; the others do not change, so only forgetting helps.
TEST(Regret, OfForgettersIsLowerWhenTheBestArmSpoils) {
  const Doubles before = {0.9, 0.5}, after = {0.1, 0.5};
  const Instance instance{[&](uint32_t t) -> const Doubles& { return t < 8192 ? before : after; }, bernoulli};
  const auto final_regret = [&](const Player& player) { return regrets(player, instance, 14, 14, 12)[0]; };
  const double remembers = final_regret({"ucb1", {}}), uniform = final_regret(kUniform);
  EXPECT_LT(final_regret({"discounted_ucb", {.bonus = 0.5, .discount = 0.998}}), 0.5 * std::min(remembers, uniform));
  EXPECT_LT(final_regret({"sliding_window_ucb", {.bonus = 0.5, .window = 500}}), 0.5 * std::min(remembers, uniform));
}

// Each arm's reward is its own theta . x and noise, x uniform on the sphere: over contexts all arms are equally good.
double contextual_regret(const Player& player, uint32_t from, uint32_t to) {
  constexpr int kArms = 4, kFeatures = 4, kRuns = 8;
  double regret = 0;
  for (uint32_t run = 0; run < kRuns; ++run) {
    const auto unit_vector = [&](uint32_t what, uint32_t which) {
      Draws draws(test_seed(), Stream::kTest, what, run, which);
      std::vector<float> out(kFeatures);
      float norm = 0;
      for (float& x : out) x = draws.normal(), norm += x * x;
      for (float& x : out) x /= std::sqrt(norm);
      return out;
    };
    std::vector<std::vector<float>> theta;
    for (uint32_t arm = 0; arm < kArms; ++arm) theta.push_back(unit_vector(86, arm));
    const auto bandit = make_bandit(player.name, {kArms, kFeatures}, player.options, test_seed() * 10000 + run);
    for (uint32_t t = 0; t < to; ++t) {
      const std::vector<float> x = unit_vector(87, t);
      Doubles means(kArms);
      for (int arm = 0; arm < kArms; ++arm)
        for (int i = 0; i < kFeatures; ++i) means[arm] += theta[arm][i] * x[i];
      const int arm = bandit->choose(x);
      bandit->learn(arm, means[arm] + 0.1 * Draws(test_seed(), Stream::kTest, 88, run, t).normal());
      if (t >= from) regret += (*std::max_element(means.begin(), means.end()) - means[arm]) / kRuns / (to - from);
    }
  }
  return regret;   // of a round
}

TEST(Regret, OfLinearLearnersVanishesWhereTheContextDecides) {
  const double blind = contextual_regret({"ucb1", {.reward_low = -1.5, .reward_high = 1.5}}, 2000, 4000);
  EXPECT_GT(blind, 0.3) << "arms differ by context alone";
  for (const char* name : {"linucb", "linear_thompson"}) {
    const Player player{name, {.reward_low = -1.5, .reward_high = 1.5, .noise = 0.1, .alpha = 0.3}};
    const double early = contextual_regret(player, 0, 250), late = contextual_regret(player, 2000, 4000);
    EXPECT_LT(late, 0.03 * blind) << name;
    EXPECT_LT(late, 0.2 * early) << name;
  }
}

}  // namespace
}  // namespace trimtab
