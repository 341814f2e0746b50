// The contract that all bandits keep, and each index against the formula written down once more. What they learn: regret_test.cpp.
#include "policies/bandits/bandit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "core/config.h"
#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "policies/bandits/ridge_model.h"

namespace trimtab {
namespace {

constexpr int64_t kFeatures = 3;
using Floats = std::vector<float>;

Floats context_of(uint32_t round) {
  Draws draws(test_seed(), Stream::kTest, 83, round);
  Floats out(kFeatures);
  for (float& x : out) x = draws.normal();
  return out;
}
double reward_of(uint32_t round, int arm) {   // [0, 1)
  return Draws(test_seed(), Stream::kTest, 84, round, static_cast<uint32_t>(arm)).uniform() * static_cast<float>(1 + arm) / 4;
}

std::vector<int> play(BanditPolicy& bandit, uint32_t from, uint32_t to) {
  std::vector<int> choices;
  for (uint32_t t = from; t < to; ++t) {
    choices.push_back(bandit.choose(context_of(t)));
    bandit.learn(choices.back(), reward_of(t, choices.back()));
  }
  return choices;
}

std::string saved(BanditPolicy& bandit) {
  Archive out = Archive::writer();
  out(bandit);
  return out.bytes();
}
void restore(BanditPolicy& bandit, const std::string& bytes) {
  Archive in = Archive::reader(bytes);
  in(bandit);
  EXPECT_TRUE(in.at_end());
}

class EveryBandit : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<BanditPolicy> make(uint64_t seed = 5) const { return make_bandit(GetParam(), {4, kFeatures}, options_, seed); }
  BanditOptions options_{.discount = 0.98, .window = 60};
};
INSTANTIATE_TEST_SUITE_P(Names, EveryBandit, testing::ValuesIn(bandit_names()), [](const auto& info) { return info.param; });

TEST_P(EveryBandit, ChoosesTheSameUnderTheSameSeed) {
  const auto a = make(), b = make();
  const auto first = play(*a, 0, 400);
  EXPECT_EQ(first, play(*b, 0, 400));
  for (const int arm : first) ASSERT_TRUE(arm >= 0 && arm < 4);
  a->reset();
  EXPECT_EQ(first, play(*a, 0, 400)) << "reset left something";
  EXPECT_EQ(saved(*a), saved(*b));
  const std::string& name = GetParam();
  const bool draws = name == "exp3" || name == "thompson" || name == "epsilon_greedy" || name == "linear_thompson";
  EXPECT_EQ(first != play(*make(6), 0, 400), draws) << "another seed";
}

TEST_P(EveryBandit, ContinuesBitForBitWhereItWasSaved) {
  for (const uint32_t at : {0u, 1u, 59u, 60u, 61u, 333u}) {
    const auto whole = make(), first = make(), second = make();
    play(*whole, 0, at), play(*first, 0, at);
    play(*second, 7, 200);   // something to forget
    restore(*second, saved(*first));
    EXPECT_EQ(play(*whole, at, at + 300), play(*second, at, at + 300)) << "saved after " << at;
    EXPECT_EQ(saved(*whole), saved(*second));
  }
}

TEST_P(EveryBandit, CanBeSavedBetweenChoiceAndReward) {
  const auto whole = make(), second = make();
  play(*whole, 0, 50);
  const int arm = whole->choose(context_of(50));
  restore(*second, saved(*whole));
  for (BanditPolicy* bandit : {whole.get(), second.get()}) bandit->learn(arm, 0.25);
  EXPECT_EQ(play(*whole, 51, 200), play(*second, 51, 200));
}

TEST_P(EveryBandit, RefusesStateThatIsNotItsOwn) {
  const auto bandit = make();
  play(*bandit, 0, 100);
  const std::string bytes = saved(*bandit);
  for (size_t length = 0; length < bytes.size(); ++length) EXPECT_THROW(restore(*make(), bytes.substr(0, length)), CheckpointError) << length;
  EXPECT_THROW(restore(*make_bandit(GetParam(), {5, kFeatures}, options_, 5), bytes), CheckpointError);
  EXPECT_THROW(restore(*make_bandit(GetParam(), {4, kFeatures + 1}, options_, 5), bytes), CheckpointError);
  for (const std::string& other : bandit_names()) {
    if (other == GetParam()) continue;
    EXPECT_THROW(restore(*make_bandit(other, {4, kFeatures}, options_, 5), bytes), CheckpointError) << other;
  }
}

TEST_P(EveryBandit, RefusesNumbersThatAreNotFinite) {
  const auto bandit = make();
  for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
    const int arm = bandit->choose(context_of(0));
    const std::string before = saved(*bandit);
    EXPECT_THROW(bandit->learn(arm, bad), RunError);
    EXPECT_EQ(saved(*bandit), before) << "the refused reward left a trace";
    EXPECT_THROW(bandit->choose(Floats{0, static_cast<float>(bad), 0}), RunError);
    EXPECT_THROW(bandit->best(Floats{0, 0, static_cast<float>(bad)}), RunError);
  }
}

TEST_P(EveryBandit, TakesRewardsBeyondTheRangeAsItsEnds) {
  options_.reward_low = -2, options_.reward_high = 3;
  for (const auto& [beyond, end] : {std::pair{-7.0, -2.0}, {1e300, 3.0}}) {
    const auto a = make(), b = make();
    for (uint32_t t = 0; t < 50; ++t) {
      a->learn(a->choose(context_of(t)), beyond);
      b->learn(b->choose(context_of(t)), end);
    }
    EXPECT_EQ(saved(*a), saved(*b));
  }
}

// Choices depend on where rewards lie in their range, not on their unit. The linear learners have no intercept, so scale alone.
TEST_P(EveryBandit, DoesNotDependOnTheUnitOfRewards) {
  const bool linear = GetParam().starts_with("lin");
  const auto a = make();
  options_.reward_low = linear ? 0 : -64, options_.reward_high = options_.reward_low + 256;   // powers of two: exact
  const auto b = make();
  for (uint32_t t = 0; t < 500; ++t) {
    const int arm = a->choose(context_of(t));
    ASSERT_EQ(b->choose(context_of(t)), arm) << "choice " << t;
    a->learn(arm, reward_of(t, arm)), b->learn(arm, options_.reward_low + 256 * reward_of(t, arm));
  }
}

TEST_P(EveryBandit, AsksNothingOfOneArm) {
  const auto bandit = make_bandit(GetParam(), {1, kFeatures}, options_, 5);
  for (const int arm : play(*bandit, 0, 200)) EXPECT_EQ(arm, 0);
}

TEST_P(EveryBandit, BestIsTheBestMeanAndChangesNothing) {
  const auto bandit = make();
  EXPECT_EQ(bandit->best(context_of(0)), 0) << "nothing is known: the lowest";
  const Floats x = {1, 0, 0};
  for (int t = 0; t < 3000; ++t) {
    const int arm = bandit->choose(x);
    bandit->learn(arm, arm == 2 ? 0.9 : 0.2);
  }
  const std::string before = saved(*bandit);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(bandit->best(x), 2);
  EXPECT_EQ(saved(*bandit), before);
}

TEST_P(EveryBandit, CanBeAskedOftenWithoutAReward) {
  const auto bandit = make();
  for (uint32_t t = 0; t < 100; ++t) bandit->choose(context_of(t));
  play(*bandit, 100, 200);
}

TEST_P(EveryBandit, ArmsOutsideAreOurOwnMistake) {
  const auto bandit = make();
  bandit->choose(context_of(0));
  EXPECT_DEATH(bandit->learn(4, 0), "arm 4 of 4");
  EXPECT_DEATH(bandit->learn(-1, 0), "arm -1 of 4");
  EXPECT_DEATH(bandit->choose(Floats{1}), "1 against 3");
}

TEST(Bandits, ARewardNeedsAChoiceWhereItsChanceOrContextCounts) {
  for (const char* name : {"exp3", "linucb", "linear_thompson"}) {
    const auto bandit = make_bandit(name, {2, kFeatures}, {}, 1);
    EXPECT_DEATH(bandit->learn(0, 1), "");
    const int arm = bandit->choose(context_of(0));
    bandit->learn(arm, 1);
    EXPECT_DEATH(bandit->learn(arm, 1), "") << "twice for one choice";
  }
}

TEST(Bandits, RefuseNonsense) {
  const auto message = [](const std::string& name, BanditShape shape, BanditOptions options) -> std::string {
    try {
      make_bandit(name, shape, options, 1);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "accepted";
  };
  const auto has = [](const std::string& text, const std::string& part) { return text.find(part) != std::string::npos ? "" : text; };
  EXPECT_EQ(message("ucb1", {2, 0}, {}), "accepted");
  EXPECT_EQ(has(message("ucb", {2, 0}, {}), "unknown bandit 'ucb'; did you mean 'ucb1'?"), "");
  EXPECT_EQ(has(message("oracle", {2, 0}, {}), "unknown bandit 'oracle'; expected one of discounted_ucb, epsilon_greedy"), "");
  EXPECT_EQ(has(message("ucb1", {0, 0}, {}), "0 arms, expected from 1"), "");
  EXPECT_EQ(has(message("ucb1", {-1, 0}, {}), "-1 arms"), "");
  EXPECT_EQ(has(message("ucb1", {2, -1}, {}), "-1 features"), "");
  EXPECT_EQ(has(message("linucb", {2, 0}, {}), "a context of 0 features, expected from 1"), "");
  EXPECT_EQ(has(message("linucb", {65536, 4096}, {}), "more than 1 GiB"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.reward_low = 1, .reward_high = 1}), "reward_high = 1, but it must be finite and above reward_low"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.reward_high = NAN}), "reward_high"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.reward_low = -INFINITY}), "reward_low"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.reward_low = -1e308, .reward_high = 1.7e308}), "reward_high"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.bonus = -1}), "bonus = -1"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.discount = 1.01}), "discount = 1.01, but it must be from 0.01 to 1"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.window = 0}), "window = 0"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.epsilon = NAN}), "epsilon = nan"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.noise = -0.1}), "noise = -0.1"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.prior_weight = 0}), "prior_weight = 0"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.alpha = INFINITY}), "alpha = inf"), "");
  EXPECT_EQ(has(message("ucb1", {2, 0}, {.ridge = 0}), "ridge = 0"), "");
}

TEST(Bandits, ReadTheirOptions) {
  BanditOptions options;
  Config::parse("{reward_high: 4, bonus: 6, window: 1k}", "x.yaml").read(options);
  EXPECT_EQ(options.reward_high, 4);
  EXPECT_EQ(options.bonus, 6);
  EXPECT_EQ(options.window, 1000);
  EXPECT_THROW(Config::parse("{discount: 0}", "x.yaml").read(options), ConfigError);
  EXPECT_THROW(Config::parse("{windows: 5}", "x.yaml").read(options), ConfigError);
  EXPECT_THROW(Config::parse("{reward_low: 7}", "x.yaml").read(options), ConfigError) << "above reward_high";
}

// Chooses by the formulas, from all rewards so far, anew each time. `weight(age)` says how much a reward counts.
template <class Weight>
int reference_ucb(const std::deque<std::pair<int, double>>& history, int arms, double bonus, const Weight& weight) {
  std::vector<double> n(arms), sum(arms);
  double total = 0;
  for (size_t i = 0; i < history.size(); ++i) {
    const double w = weight(history.size() - 1 - i);
    n[history[i].first] += w, sum[history[i].first] += w * history[i].second, total += w;
  }
  int best = 0;
  double highest = -1;
  for (int arm = 0; arm < arms; ++arm) {
    if (n[arm] == 0) return arm;
    const double index = sum[arm] / n[arm] + std::sqrt(bonus * std::log(total) / n[arm]);
    if (index > highest + 1e-12) best = arm, highest = index;
  }
  return best;
}

template <class Weight>
void expect_ucb(const std::string& name, const Weight& weight) {
  const auto bandit = make_bandit(name, {4, 0}, {.bonus = 1.3, .discount = 0.97, .window = 50}, 1);
  std::deque<std::pair<int, double>> history;
  for (uint32_t t = 0; t < 700; ++t) {
    const int arm = bandit->choose({});
    ASSERT_EQ(arm, reference_ucb(history, 4, 1.3, weight)) << name << ", choice " << t;
    history.push_back({arm, reward_of(t, arm)});
    bandit->learn(arm, history.back().second);
  }
}

TEST(Bandits, UpperBoundsAreTheFormulas) {
  expect_ucb("ucb1", [](size_t) { return 1.0; });
  expect_ucb("discounted_ucb", [](size_t age) { return std::pow(0.97, static_cast<double>(age)); });
  expect_ucb("sliding_window_ucb", [](size_t age) { return age < 50 ? 1.0 : 0.0; });
}

// Two observations per feature on average up to thousands, against the normal equations solved by elimination.
TEST(Bandits, RidgeModelSolvesTheNormalEquations) {
  for (const int observations : {1, 6, 5000}) {
    constexpr int d = kFeatures;
    const double ridge = 0.7;
    RidgeModel model(d, ridge);
    std::vector<std::vector<double>> a(d, std::vector<double>(d + 1));   // [A | b]
    for (int i = 0; i < d; ++i) a[i][i] = ridge;
    for (int t = 0; t < observations; ++t) {
      const Floats x = context_of(t);
      const double reward = reward_of(t, t % 4);
      model.learn(x, reward);
      for (int i = 0; i < d; ++i) {
        for (int j = 0; j < d; ++j) a[i][j] += static_cast<double>(x[i]) * x[j];
        a[i][d] += reward * x[i];
      }
    }
    for (int i = 0; i < d; ++i) {   // A A^-1 = I and A theta = b
      double b = 0;
      for (int j = 0; j < d; ++j) {
        double product = 0;
        for (int k = 0; k < d; ++k) product += a[i][k] * model.inverse()[k * d + j];
        EXPECT_NEAR(product, i == j, 1e-9);
        EXPECT_EQ(model.inverse()[i * d + j], model.inverse()[j * d + i]);
        b += a[i][j] * model.theta()[j];
      }
      EXPECT_NEAR(b, a[i][d], 1e-9 * observations);
    }
  }
}

}  // namespace
}  // namespace trimtab
