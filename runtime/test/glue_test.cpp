// Quotas and power: invariants on random and on hostile inputs.
#include "trimtab/glue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "random_cases.h"

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<int> quotas_of(const std::vector<float>& shares, const std::vector<uint8_t>& mask, int num_prb) {
  std::vector<int> quotas(shares.size(), -1);
  tt_quotas(shares.data(), mask.empty() ? nullptr : mask.data(), static_cast<int>(shares.size()), num_prb, quotas.data());
  return quotas;
}

TEST(Quotas, LargestRemainderByHand) {
  EXPECT_EQ(quotas_of({0.5f, 0.3f, 0.2f}, {}, 51), (std::vector<int>{26, 15, 10}));   // 25.5 15.3 10.2
  EXPECT_EQ(quotas_of({1, 1, 1}, {}, 5), (std::vector<int>{2, 2, 1}));                // equal remainders: lowest index
  EXPECT_EQ(quotas_of({1, 1, 1}, {0, 1, 1}, 5), (std::vector<int>{0, 3, 2}));
  EXPECT_EQ(quotas_of({0, 1, 0}, {}, 273), (std::vector<int>{0, 273, 0}));
  EXPECT_EQ(quotas_of({0.2f, 0.8f}, {}, 0), (std::vector<int>{0, 0}));
}

TEST(Quotas, SumAndRoundingOnRandomShares) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 3000; ++trial) {
    const int num_users = random.integer(1, 64), num_prb = random.integer(1, 273);
    std::vector<float> shares(num_users);
    std::vector<uint8_t> mask(num_users);
    for (float& s : shares) s = std::exp(3 * random.normal());
    for (uint8_t& m : mask) m = random.integer(0, 3) > 0;
    mask[random.integer(0, num_users - 1)] = 1;
    const std::vector<int> quotas = quotas_of(shares, mask, num_prb);
    double total = 0;
    for (int u = 0; u < num_users; ++u) total += mask[u] ? shares[u] : 0;
    ASSERT_EQ(std::accumulate(quotas.begin(), quotas.end(), 0), num_prb);
    for (int u = 0; u < num_users; ++u) {
      const double ideal = mask[u] ? num_prb * static_cast<double>(shares[u]) / total : 0;
      ASSERT_LT(std::abs(quotas[u] - ideal), 1.0 + 1e-6) << "user " << u;
      ASSERT_TRUE(mask[u] || quotas[u] == 0);
    }
  }
}

TEST(Quotas, PermutingUsersPermutesQuotas) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 1000; ++trial) {
    const int num_users = random.integer(2, 32), num_prb = random.integer(1, 273);
    std::vector<float> shares(num_users), permuted(num_users);
    for (float& s : shares) s = random.uniform(0.01f, 1);   // distinct remainders almost surely
    std::vector<int> order(num_users);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.generator());
    for (int u = 0; u < num_users; ++u) permuted[u] = shares[order[u]];
    const std::vector<int> plain = quotas_of(shares, {}, num_prb), shuffled = quotas_of(permuted, {}, num_prb);
    for (int u = 0; u < num_users; ++u) ASSERT_EQ(shuffled[u], plain[order[u]]);
  }
}

TEST(Quotas, BadSharesGiveEqualShares) {
  std::vector<int> quotas(3);
  for (float bad : {kNaN, kInf, -1.0f}) {
    const float shares[] = {0.9f, bad, 0.1f};
    EXPECT_EQ(tt_quotas(shares, nullptr, 3, 51, quotas.data()), TT_BAD_INPUT);
    EXPECT_EQ(quotas, (std::vector<int>{17, 17, 17}));
    const uint8_t without[] = {1, 0, 1};   // an absent user's share is never looked at
    EXPECT_EQ(tt_quotas(shares, without, 3, 10, quotas.data()), TT_OK);
    EXPECT_EQ(quotas, (std::vector<int>{9, 0, 1}));
  }
  const float zero[] = {0, 0, 0}, one[] = {1, 1, 1};
  const uint8_t nobody[] = {0, 0, 0};
  EXPECT_EQ(tt_quotas(zero, nullptr, 3, 51, quotas.data()), TT_BAD_INPUT);
  EXPECT_EQ(tt_quotas(one, nobody, 3, 51, quotas.data()), TT_NO_ITEMS);
  EXPECT_EQ(quotas, (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(tt_quotas(nullptr, nullptr, 3, 51, quotas.data()), TT_BAD_ARGUMENT);
  EXPECT_EQ(tt_quotas(one, nullptr, 0, 51, quotas.data()), TT_BAD_ARGUMENT);
  EXPECT_EQ(tt_quotas(one, nullptr, 3, -1, quotas.data()), TT_BAD_ARGUMENT);
}

TEST(Power, UniformWithinAUserAndSumsToTheBudget) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 2000; ++trial) {
    const int num_users = random.integer(1, 32), num_prb = random.integer(1, 273);
    std::vector<float> shares(num_users), power(num_prb);
    std::vector<int> owner(num_prb), counts(num_users);
    for (float& s : shares) s = random.uniform(0.01f, 1);
    for (int& u : owner) u = random.integer(-1, num_users - 1);
    for (int u : owner) counts[std::max(u, 0)] += u >= 0;
    double owned = 0;
    for (int u = 0; u < num_users; ++u) owned += counts[u] ? shares[u] : 0;
    const tt_status status = tt_spread_power(shares.data(), num_users, owner.data(), num_prb, 40.0f, power.data());
    if (owned == 0) {
      ASSERT_EQ(status, TT_NO_ITEMS);
      continue;
    }
    ASSERT_EQ(status, TT_OK);
    ASSERT_NEAR(std::accumulate(power.begin(), power.end(), 0.0), 40.0, 40.0 * 1e-7 * 2);
    for (int f = 0; f < num_prb; ++f) {
      const double expected = owner[f] < 0 ? 0 : 40.0 * shares[owner[f]] / owned / counts[owner[f]];
      ASSERT_NEAR(power[f], expected, 1e-5) << "prb " << f;
    }
  }
}

TEST(Power, BadSharesGiveEqualPower) {
  const int owner[] = {0, 1, -1, 1};
  float power[4];
  for (float bad : {kNaN, kInf, -0.5f}) {
    const float shares[] = {bad, 1};
    EXPECT_EQ(tt_spread_power(shares, 2, owner, 4, 3, power), TT_BAD_INPUT);
    EXPECT_FLOAT_EQ(power[0], 1);
    EXPECT_FLOAT_EQ(power[2], 0);
    EXPECT_FLOAT_EQ(power[3], 1);
  }
  const float none[] = {0, 0, 1};   // the user with all the share owns nothing
  EXPECT_EQ(tt_spread_power(none, 3, owner, 4, 3, power), TT_BAD_INPUT);
  EXPECT_FLOAT_EQ(power[1], 1);
  const int nobody[] = {-1, -1}, unknown[] = {0, 3};
  EXPECT_EQ(tt_spread_power(none, 3, nobody, 2, 3, power), TT_NO_ITEMS);
  EXPECT_EQ(tt_spread_power(none, 3, unknown, 2, 3, power), TT_BAD_ARGUMENT);
  EXPECT_EQ(tt_spread_power(none, 3, owner, 4, kNaN, power), TT_BAD_ARGUMENT);
}

}  // namespace
