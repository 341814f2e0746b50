// Learners that keep each arm's mean: Thompson sampling with Gaussian posteriors (Agrawal & Goyal, "Near-optimal regret bounds for
// Thompson sampling", J. ACM 64, 2017, algorithm 2) and epsilon-greedy (Sutton & Barto, Reinforcement Learning, 2nd ed., 2.2).
#include <algorithm>
#include <cmath>
#include <limits>

#include "policies/bandits/bandit_base.h"

namespace trimtab {
namespace {

class Means : public BanditBase {
 public:
  explicit Means(BanditSetting setting) : BanditBase(std::move(setting)), counts_(arms()), sums_(arms()) {}

 protected:
  void update(int arm, double reward) override { counts_[arm] += 1, sums_[arm] += unit(reward); }
  void clear() override { std::fill(counts_.begin(), counts_.end(), 0), std::fill(sums_.begin(), sums_.end(), 0); }
  void state(Archive& a) override {
    a(counts_), a(sums_);
    check_restored(counts_, arms()), check_restored(sums_, arms());
  }
  std::vector<double> counts_, sums_;   // [K]
};

// The scale of rewards is taken as known. At its default, half the range, a reward in that range is sub-Gaussian with it whatever its
// distribution (Hoeffding's lemma), so the posterior is never too narrow; a smaller one suits rewards known to vary less.
class Thompson final : public Means {
 public:
  using Means::Means;

 protected:
  int pick(std::span<const float>, Draws draws) override {
    return best_arm(arms(), [&](int arm) { return mean(arm) + options().noise / std::sqrt(weight(arm)) * draws.normal(); });
  }
  int pick_best(std::span<const float>) const override {
    return best_arm(arms(), [&](int arm) { return mean(arm); });
  }

 private:
  double weight(int arm) const { return options().prior_weight + counts_[arm]; }
  double mean(int arm) const { return (0.5 * options().prior_weight + sums_[arm]) / weight(arm); }
};

class EpsilonGreedy final : public Means {
 public:
  using Means::Means;

 protected:
  int pick(std::span<const float>, Draws draws) override {
    if (draws.uniform() < options().epsilon) return static_cast<int>(draws.below(static_cast<uint32_t>(arms())));
    return best_arm(arms(), [&](int arm) { return mean(arm, std::numeric_limits<double>::infinity()); });
  }
  int pick_best(std::span<const float>) const override {
    return best_arm(arms(), [&](int arm) { return mean(arm, -1); });
  }

 private:
  double mean(int arm, double untried) const { return counts_[arm] > 0 ? sums_[arm] / counts_[arm] : untried; }
};

}  // namespace

std::unique_ptr<BanditPolicy> make_thompson(BanditSetting setting) { return std::make_unique<Thompson>(std::move(setting)); }
std::unique_ptr<BanditPolicy> make_epsilon_greedy(BanditSetting setting) { return std::make_unique<EpsilonGreedy>(std::move(setting)); }

}  // namespace trimtab
