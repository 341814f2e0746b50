// Fair power control: anchors, and the optimality conditions on random problems.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/random.h"
#include "domain/radio/link.h"
#include "domain/radio/link_test_util.h"

namespace trimtab::radio {
namespace {

FairPowerProblem two_users(double max_power_dbm, double guaranteed, double fairness) {
  FairPowerProblem problem;
  problem.pathloss = {1 / 20.0, 1 / 0.2};  // with noise 1: channel quality 20 and 0.2 per watt
  problem.interference_plus_noise_w = 1;
  problem.num_re = {1, 1};
  problem.max_power_dbm = max_power_dbm;
  problem.guaranteed_power_ratio = guaranteed;
  problem.fairness = fairness;
  return problem;
}

TEST(fair_power, anchors) {
  struct Case {
    double dbm, guaranteed, fairness, first, second;
  };
  for (const Case& c : {Case{46, 0.5, 0, 22.38036, 17.43036},
                        {30, 0.5, 0, 0.75, 0.25},
                        {46, 0, 1, 11.53339, 28.27732},
                        {46, 0, 3, 4.20317, 35.60755}}) {
    const FairPower power = fair_power(two_users(c.dbm, c.guaranteed, c.fairness));
    EXPECT_NEAR(power.tx_power_w[0], c.first, 1e-5) << c.fairness;
    EXPECT_NEAR(power.tx_power_w[1], c.second, 1e-5) << c.fairness;
  }
}

TEST(fair_power, nobody_scheduled_sends_nothing) {
  FairPowerProblem problem = two_users(46, 0.5, 1);
  problem.num_re = {0, 0};
  const FairPower power = fair_power(problem);
  EXPECT_EQ(power.tx_power_w, (std::vector<double>{0, 0}));
}

TEST(fair_power, full_guarantee_is_an_equal_split) {
  for (const double fairness : {0.0, 1.0, 5.0}) {
    const FairPower power = fair_power(two_users(30, 1, fairness));
    EXPECT_NEAR(power.tx_power_w[0], 0.5, 1e-12);
    EXPECT_NEAR(power.tx_power_w[1], 0.5, 1e-12);
    EXPECT_GT(power.mu_inv, 0);
  }
}

FairPowerProblem random_problem(Draws& draws) {
  FairPowerProblem problem;
  const uint32_t num_users = 2 + draws.below(12);
  for (uint32_t u = 0; u < num_users; ++u) {
    problem.pathloss.push_back(std::pow(10.0, draws.uniform(7, 13)));
    problem.num_re.push_back(u >= 2 && draws.uniform() < 0.2f ? 0.0 : 1.0 + draws.below(60));
  }
  problem.interference_plus_noise_w = std::pow(10.0, draws.uniform(-14, -10));
  problem.max_power_dbm = draws.uniform(20, 50);
  problem.guaranteed_power_ratio = draws.uniform() < 0.3f ? 0.0 : draws.uniform(0, 0.95f);
  problem.fairness = std::vector<double>{0, 0.5, 1, 2, 5}[draws.below(5)];
  return problem;
}

// Budget met, guarantee kept, and the same marginal utility per watt for everybody above the guarantee.
void check_optimal(const FairPowerProblem& problem) {
  const FairPower power = fair_power(problem);
  const double budget_w = std::pow(10.0, problem.max_power_dbm / 10 - 3);
  EXPECT_NEAR(std::accumulate(power.tx_power_w.begin(), power.tx_power_w.end(), 0.0), budget_w,
              1e-10 * budget_w);
  double scheduled = 0;
  for (const double r : problem.num_re) scheduled += r > 0 ? 1 : 0;
  const double floor_w = problem.guaranteed_power_ratio * budget_w / scheduled;
  for (size_t u = 0; u < problem.num_re.size(); ++u) {
    const double r = problem.num_re[u], watts = power.tx_power_w[u];
    if (r == 0) {
      EXPECT_EQ(watts, 0);
      continue;
    }
    EXPECT_GE(watts, floor_w * (1 - 1e-12));
    const double q = 1 / (problem.pathloss[u] * problem.interference_plus_noise_w), snr = watts / r * q;
    const double left = std::pow(r * std::log1p(snr), problem.fairness) * (1 + snr), right = q * power.mu_inv;
    if (watts > floor_w + 1e-9 * budget_w) {
      EXPECT_NEAR(left / right, 1, 1e-6);
    } else {
      EXPECT_GE(left / right, 1 - 1e-6);
    }
  }
}

TEST(fair_power, satisfies_the_optimality_conditions) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest);
  for (int i = 0; i < 500 && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE("seed " + std::to_string(seed) + " problem " + std::to_string(i));
    check_optimal(random_problem(draws));
  }
}

}  // namespace
}  // namespace trimtab::radio
