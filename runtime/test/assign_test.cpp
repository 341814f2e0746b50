// Assignment: the exact rule against brute force and its dual certificate; the fast rule against the exact one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numeric>
#include <vector>

#include "random_cases.h"
#include "trimtab/glue.h"

namespace {

struct Problem {
  int num_users, num_prb;
  std::vector<float> weight;
  std::vector<int> quotas;
};

std::vector<int> random_quotas(RandomCases& random, int num_users, int num_prb) {
  std::vector<float> shares(num_users);
  for (float& s : shares) s = std::exp(random.normal());
  std::vector<int> quotas(num_users);
  tt_quotas(shares.data(), nullptr, num_users, num_prb, quotas.data());
  return quotas;
}

Problem random_problem(RandomCases& random, int num_users, int num_prb) {
  Problem p{num_users, num_prb, std::vector<float>(num_users * num_prb), random_quotas(random, num_users, num_prb)};
  for (float& w : p.weight) w = random.uniform(-1, 1);
  return p;
}

// Rates over a six-tap Rayleigh channel, users' mean SNR spread over 8 dB: neighbouring PRBs resemble each other.
Problem fading_problem(RandomCases& random, int num_users, int num_prb) {
  Problem p{num_users, num_prb, std::vector<float>(num_users * num_prb), random_quotas(random, num_users, num_prb)};
  for (int u = 0; u < num_users; ++u) {
    const float mean_snr = std::pow(10.0f, 1.5f + 0.8f * random.normal());
    std::complex<float> taps[6];
    for (int l = 0; l < 6; ++l) taps[l] = std::complex<float>(random.normal(), random.normal()) * std::exp(-0.4f * l) * 0.5f;
    for (int f = 0; f < num_prb; ++f) {
      std::complex<float> h = 0;
      for (int l = 0; l < 6; ++l) h += taps[l] * std::polar(1.0f, -4.0f * static_cast<float>(f * l) / static_cast<float>(num_prb));
      p.weight[u * num_prb + f] = std::log2(1 + mean_snr * std::norm(h));
    }
  }
  return p;
}

double value_of(const Problem& p, const std::vector<int>& owner) {
  double value = 0;
  for (int f = 0; f < p.num_prb; ++f) value += p.weight[owner[f] * p.num_prb + f];
  return value;
}

void expect_quotas_met(const Problem& p, const std::vector<int>& owner) {
  std::vector<int> counts(p.num_users);
  for (int u : owner) {
    ASSERT_GE(u, 0);
    ASSERT_LT(u, p.num_users);
    ++counts[u];
  }
  ASSERT_EQ(counts, p.quotas);
}

struct Solver {
  std::vector<char> workspace;
  std::vector<int> owner;
  explicit Solver(const Problem& p) : workspace(tt_assign_workspace_size(p.num_users, p.num_prb)), owner(p.num_prb) {}
  double exact(const Problem& p, double* prices = nullptr) {
    EXPECT_EQ(tt_assign_exact(p.weight.data(), p.num_users, p.num_prb, p.quotas.data(), owner.data(), prices, workspace.data()),
              TT_OK);
    expect_quotas_met(p, owner);
    return value_of(p, owner);
  }
  double fast(const Problem& p, float* prices = nullptr) {
    EXPECT_EQ(tt_assign_fast(p.weight.data(), p.num_users, p.num_prb, p.quotas.data(), owner.data(), prices, workspace.data()),
              TT_OK);
    expect_quotas_met(p, owner);
    return value_of(p, owner);
  }
};

double brute_force(const Problem& p, std::vector<int> left, int f) {
  if (f == p.num_prb) return 0;
  double best = -1e300;
  for (int u = 0; u < p.num_users; ++u) {
    if (left[u] == 0) continue;
    --left[u];
    best = std::max(best, p.weight[u * p.num_prb + f] + brute_force(p, left, f + 1));
    ++left[u];
  }
  return best;
}

TEST(AssignExact, EqualsBruteForce) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 300; ++trial) {
    const Problem p = random_problem(random, random.integer(1, 4), random.integer(1, 7));
    ASSERT_NEAR(Solver(p).exact(p), brute_force(p, p.quotas, 0), 1e-5);
  }
}

TEST(AssignExact, PricesProveOptimality) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 60; ++trial) {
    const int num_users = random.integer(2, 32), num_prb = random.integer(1, 106);
    const Problem p = trial % 2 ? random_problem(random, num_users, num_prb) : fading_problem(random, num_users, num_prb);
    Solver solver(p);
    std::vector<double> prices(num_users);
    solver.exact(p, prices.data());
    for (int f = 0; f < num_prb; ++f)
      for (int u = 0; u < num_users; ++u) {
        const int own = solver.owner[f];
        ASSERT_GE(p.weight[own * num_prb + f] + prices[own], p.weight[u * num_prb + f] + prices[u] - 1e-9);
      }
  }
}

// What dealing the PRBs out without looking is worth on average: gaps are stated as parts of what the optimum gains over it.
double blind_value(const Problem& p) {
  double value = 0;
  for (int u = 0; u < p.num_users; ++u)
    value += p.quotas[u] * std::accumulate(&p.weight[u * p.num_prb], &p.weight[u * p.num_prb] + p.num_prb, 0.0) / p.num_prb;
  return value;
}

// Gaps of the fast rule, cold and from a guess. The optimum is never passed, and the prices never promise too much.
class Gaps {
 public:
  void measure(const Problem& p, std::vector<float> prices) {
    Solver solver(p);
    const double optimum = solver.exact(p), gain = optimum - blind_value(p), rounding = 1e-5 * p.num_prb;
    for (float* guess : {static_cast<float*>(nullptr), prices.data(), prices.data()}) {   // the last from its own prices
      const double gap = optimum - solver.fast(p, guess);
      ASSERT_GE(gap, -rounding);
      if (guess) {
        ASSERT_GE(tt_assign_gap_bound(p.weight.data(), p.num_users, p.num_prb, solver.owner.data(), guess), gap - rounding);
      }
      parts_.push_back(gap <= rounding ? 0 : gap / gain);
    }
  }
  double mean() const { return std::accumulate(parts_.begin(), parts_.end(), 0.0) / static_cast<double>(parts_.size()); }
  double quantile(double q) {
    std::sort(parts_.begin(), parts_.end());
    return parts_[static_cast<size_t>(q * static_cast<double>(parts_.size() - 1))];
  }

 private:
  std::vector<double> parts_;
};

TEST(AssignFast, IsNearlyOptimal) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  Gaps gaps[2];
  for (int trial = 0; trial < 400; ++trial) {
    const int num_users = random.integer(2, 32), num_prb = random.integer(4, 106);
    const Problem p = trial % 2 ? random_problem(random, num_users, num_prb) : fading_problem(random, num_users, num_prb);
    std::vector<float> prices(num_users);
    for (float& price : prices) price = random.normal();
    gaps[trial % 2].measure(p, prices);
  }
  for (Gaps& g : gaps) {
    EXPECT_LT(g.mean(), 0.001);
    EXPECT_LT(g.quantile(0.99), 0.01);
  }
}

// Weights as quantised reports give them: two to six levels for whole runs of PRBs, some users exact copies of others.
TEST(AssignFast, IsNearlyOptimalWhereWeightsTie) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  Gaps gaps;
  for (int trial = 0; trial < 1500; ++trial) {
    Problem p = random_problem(random, random.integer(2, trial % 50 ? 20 : 40), random.integer(1, trial % 50 ? 60 : 273));
    const int num_levels = random.integer(2, 6), subband = random.integer(1, 8);
    std::vector<float> level(num_levels);
    for (float& l : level) l = trial % 3 ? std::log2(1 + random.uniform(0.01f, 30)) : static_cast<float>(random.integer(-3, 3));
    for (int u = 0; u < p.num_users; ++u) {
      const bool copy = u > 0 && random.integer(0, 3) == 0;
      float* row = &p.weight[u * p.num_prb];
      for (int f = 0; f < p.num_prb; ++f)
        row[f] = copy ? row[f - p.num_prb] : f % subband ? row[f - 1] : level[random.integer(0, num_levels - 1)];
    }
    std::vector<float> prices(p.num_users);
    for (float& price : prices) price = 3 * random.normal();
    gaps.measure(p, prices);
  }
  EXPECT_LT(gaps.mean(), 0.001);
  EXPECT_LT(gaps.quantile(0.99), 0.01);
}

TEST(AssignFast, GapBoundHoldsForAnyAssignment) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 100; ++trial) {
    Problem p = random_problem(random, random.integer(2, 12), random.integer(2, 60));
    Solver solver(p);
    std::vector<float> prices(p.num_users);
    for (float& price : prices) price = random.normal();
    std::vector<int> owner(p.num_prb);
    std::fill(p.quotas.begin(), p.quotas.end(), 0);
    for (int& u : owner) ++p.quotas[u = random.integer(0, p.num_users - 1)];
    const double bound = tt_assign_gap_bound(p.weight.data(), p.num_users, p.num_prb, owner.data(), prices.data());
    ASSERT_GE(bound, solver.exact(p) - value_of(p, owner) - 1e-4);
  }
}

TEST(AssignFast, EqualsArgmaxWhenQuotasMatchIt) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 300; ++trial) {
    Problem p = fading_problem(random, random.integer(1, 32), random.integer(1, 273));
    std::vector<int> argmax(p.num_prb, 0);
    std::fill(p.quotas.begin(), p.quotas.end(), 0);
    for (int f = 0; f < p.num_prb; ++f) {
      for (int u = 1; u < p.num_users; ++u)
        if (p.weight[u * p.num_prb + f] > p.weight[argmax[f] * p.num_prb + f]) argmax[f] = u;
      ++p.quotas[argmax[f]];
    }
    Solver solver(p);
    std::vector<float> wrong_prices(p.num_users);
    for (float& price : wrong_prices) price = random.normal();
    const std::vector<float> guess = wrong_prices;
    solver.fast(p, wrong_prices.data());
    ASSERT_EQ(solver.owner, argmax);
    Problem priced = p;   // the same weights with other prices: now the guess is right and the plain argmax is not
    for (int u = 0; u < p.num_users; ++u)
      for (int f = 0; f < p.num_prb; ++f) priced.weight[u * p.num_prb + f] -= guess[u];
    std::vector<float> right_prices = guess;
    solver.fast(priced, right_prices.data());
    ASSERT_NEAR(value_of(p, solver.owner), value_of(p, argmax), 1e-4 * p.num_prb);
  }
}

// Prices start equal and every rule is symmetric in the users, so a permutation shows up in the answer only by rounding.
TEST(AssignFast, PermutingUsersPermutesTheAssignment) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 200; ++trial) {
    const Problem p = random_problem(random, random.integer(2, 20), random.integer(2, 60));
    std::vector<int> order(p.num_users);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.generator());
    Problem permuted = p;
    for (int u = 0; u < p.num_users; ++u) {
      permuted.quotas[u] = p.quotas[order[u]];
      std::copy_n(&p.weight[order[u] * p.num_prb], p.num_prb, &permuted.weight[u * p.num_prb]);
    }
    Solver plain(p), shuffled(permuted);
    const double optimum = plain.exact(p);
    ASSERT_NEAR(shuffled.exact(permuted), optimum, 1e-4);
    const double value = plain.fast(p);
    ASSERT_NEAR(shuffled.fast(permuted), value, 1e-4);
    for (int f = 0; f < p.num_prb; ++f) ASSERT_EQ(order[shuffled.owner[f]], plain.owner[f]);
  }
}

TEST(Assign, HostileWeightsStillGiveAValidAssignment) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(), 3e38f, -3e38f};
  for (int trial = 0; trial < 200; ++trial) {
    Problem p = random_problem(random, random.integer(1, 12), random.integer(1, 60));
    for (int k = 0; k < 1 + trial % 40; ++k)
      p.weight[random.integer(0, static_cast<int>(p.weight.size()) - 1)] = bad[random.integer(0, 4)];
    p.weight[0] = bad[0];
    Solver solver(p);
    std::vector<float> prices(p.num_users, bad[trial % 5]);
    ASSERT_EQ(tt_assign_fast(p.weight.data(), p.num_users, p.num_prb, p.quotas.data(), solver.owner.data(), prices.data(),
                             solver.workspace.data()),
              TT_BAD_INPUT);
    expect_quotas_met(p, solver.owner);
    ASSERT_EQ(tt_assign_exact(p.weight.data(), p.num_users, p.num_prb, p.quotas.data(), solver.owner.data(), nullptr,
                              solver.workspace.data()),
              TT_BAD_INPUT);
    expect_quotas_met(p, solver.owner);
  }
}

TEST(Assign, RefusesQuotasThatDoNotFit) {
  RandomCases random;
  Problem p = random_problem(random, 3, 10);
  Solver solver(p);
  ++p.quotas[0];
  EXPECT_EQ(tt_assign_fast(p.weight.data(), 3, 10, p.quotas.data(), solver.owner.data(), nullptr, solver.workspace.data()),
            TT_BAD_ARGUMENT);
  p.quotas = {11, -1, 0};
  EXPECT_EQ(tt_assign_exact(p.weight.data(), 3, 10, p.quotas.data(), solver.owner.data(), nullptr, solver.workspace.data()),
            TT_BAD_ARGUMENT);
  EXPECT_EQ(tt_assign_workspace_size(0, 10), 0u);
  EXPECT_EQ(tt_assign_workspace_size(TT_GLUE_MAX_USERS + 1, 10), 0u);
}

}  // namespace
