// How a user's watts are spread over its PRBs and what the ladder promises: against EESM in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "trimtab/cell.h"
#include "trimtab/glue.h"

namespace trimtab {
namespace {

constexpr int kUsers = 5, kPrbs = 40, kMcs = 12;

// A slot with random gains on random PRBs, and a made-up link of 12 rows.
struct Slot {
  explicit Slot(uint64_t key) {
    Draws draws(test_seed(), Stream::kTest, key);
    for (int u = 0; u < kUsers; ++u) {
      const float mean = std::pow(10.0f, 2.0f * draws.uniform());
      for (int f = 0; f < kPrbs; ++f) gains[u * kPrbs + f] = mean * (0.3f + draws.exponential());
      offset[u] = 4 * draws.uniform() - 2;
      reliability[u] = draws.uniform();
      shares[u] = draws.exponential();
    }
    for (int f = 0; f < kPrbs; ++f) {
      owner[f] = static_cast<int>(draws.uniform() * (kUsers + 1)) - 1;
      if (owner[f] >= 0) ++counts[owner[f]];
    }
    for (int m = 0; m < kMcs; ++m) {
      beta[m] = 1.5f + 0.8f * m;
      for (int n = 0; n <= kPrbs; ++n) {
        threshold[n * kMcs + m] = 0.5f * std::pow(1.5f, static_cast<float>(m));
        bits[n * kMcs + m] = n * (20 + 15 * m);
      }
    }
    setup = {.num_prb = kPrbs, .rbg_size = 1, .max_users_per_slot = 0, .max_power_w = 40, .num_mcs = kMcs, .min_mcs = 0,
             .threshold_sinr = threshold.data(), .beta = beta.data(), .bits = bits.data(), .max_efficiency = 6, .min_sinr = 0.5f, .fairness_exponent = 1,
             .levelling = 0, .report_ceiling_sinr = 0, .probe_db = 0};
    slot = {.num_users = kUsers, .sinr_per_watt = gains.data(), .average_bits = average.data(), .offset_db = offset.data(),
            .reliability = reliability.data(), .backlog_bits = average.data(), .delay_slots = average.data(), .active = active.data(),
            .retx_prbs = retx_prbs.data(), .retx_mcs = retx_prbs.data()};
    memory.resize(tt_cell_scratch_floats(kUsers, kPrbs) + 16);
    tt_cell_scratch_init(&scratch, kUsers, kPrbs, memory.data());
  }
  std::vector<float> spread(const float* watts_by_share) {
    std::vector<float> power(kPrbs);
    EXPECT_EQ(tt_cell_spread_power(&setup, &slot, watts_by_share, owner.data(), &scratch, power.data()), TT_OK);
    return power;
  }
  std::vector<float> ladder() {
    tt_cell_ladder(&setup, &slot, owner.data(), counts.data(), &scratch);
    return {scratch.power, scratch.power + kUsers * TT_CELL_MAX_STEPS};
  }
  double effective_sinr(int u, int m, const std::vector<float>& power) const {
    double sum = 0;
    for (int f = 0; f < kPrbs; ++f)
      if (owner[f] == u) sum += std::exp(-static_cast<double>(power[f]) * gains[u * kPrbs + f] / beta[m]);
    return -beta[m] * std::log(sum / counts[u]);
  }

  std::vector<float> gains = std::vector<float>(kUsers * kPrbs), offset = std::vector<float>(kUsers), reliability = offset,
                     shares = offset, average = std::vector<float>(kUsers, 1e4f), beta = std::vector<float>(kMcs),
                     threshold = std::vector<float>(kMcs * (kPrbs + 1)), memory;
  std::vector<uint8_t> active = std::vector<uint8_t>(kUsers, 1);
  std::vector<int> owner = std::vector<int>(kPrbs), counts = std::vector<int>(kUsers), bits = std::vector<int>(kMcs * (kPrbs + 1)),
                   retx_prbs = std::vector<int>(kUsers);
  tt_cell_setup setup{};
  tt_cell_slot slot{};
  tt_cell_scratch scratch{};
};

TEST(prb_power_power, levelling_moves_watts_within_a_user_only) {
  for (uint64_t key = 0; key < 50; ++key) {
    Slot s(key);
    const std::vector<float> uniform = s.spread(s.shares.data());
    std::vector<float> plain(kPrbs);
    tt_spread_power(s.shares.data(), kUsers, s.owner.data(), kPrbs, s.setup.max_power_w, plain.data());
    EXPECT_EQ(uniform, plain);
    s.setup.levelling = 0.7f;
    const std::vector<float> levelled = s.spread(s.shares.data());
    for (int u = 0; u < kUsers; ++u) {
      double before = 0, after = 0;
      const float level = 0.7f * s.reliability[u];
      float constant = 0;
      for (int f = 0; f < kPrbs; ++f) {
        if (s.owner[f] != u) continue;
        before += uniform[f], after += levelled[f];
        const float product = levelled[f] * std::pow(s.gains[u * kPrbs + f], level);   // power x gain^level is the same on all its PRBs
        if (constant > 0) {
          EXPECT_NEAR(product / constant, 1, 1e-3);
        }
        constant = product;
      }
      EXPECT_NEAR(after, before, 1e-4 * before + 1e-6);
    }
  }
}

TEST(prb_power_power, the_ladders_watts_reach_each_step_as_they_are_spread) {
  double error = 0, rows = 0;
  for (const float levelling : {0.0f, 0.5f, 1.0f}) {
    for (uint64_t key = 0; key < 20; ++key) {
      Slot s(100 + key);
      s.setup.levelling = levelling;
      const std::vector<float> watts = s.ladder();
      for (int u = 0; u < kUsers; ++u) {
        for (int m = 0; s.counts[u] > 0 && m < kMcs; ++m) {
          const float needed = watts[u * TT_CELL_MAX_STEPS + m];
          std::vector<float> only_this(kUsers, 0.0f);
          only_this[u] = 1;
          const double wanted = s.threshold[s.counts[u] * kMcs + m] * std::pow(10.0, s.offset[u] / 10);
          std::vector<float> power = s.spread(only_this.data());
          for (float& p : power) p *= needed / s.setup.max_power_w;
          const double reached = s.effective_sinr(u, m, power);
          EXPECT_GE(reached, 0.95 * wanted) << "levelling " << levelling << " user " << u << " row " << m;
          EXPECT_LE(reached, 1.03 * wanted);
          error += std::abs(reached / wanted - 1), ++rows;
        }
      }
    }
  }
  EXPECT_LT(error / rows, 0.005);
}

TEST(prb_power_power, levelling_saves_watts_where_gains_differ) {
  double plain = 0, levelled = 0;
  for (uint64_t key = 0; key < 50; ++key) {
    Slot s(200 + key);
    std::fill(s.reliability.begin(), s.reliability.end(), 1.0f);
    const std::vector<float> before = s.ladder();
    s.setup.levelling = 0.6f;
    const std::vector<float> after = s.ladder();
    for (int u = 0; u < kUsers; ++u)
      if (s.counts[u] > 2) plain += before[u * TT_CELL_MAX_STEPS + kMcs - 1], levelled += after[u * TT_CELL_MAX_STEPS + kMcs - 1];
  }
  EXPECT_LT(levelled, 0.9 * plain);
}

TEST(prb_power_power, probing_takes_reports_at_the_ceiling_for_better_and_no_others) {
  Slot s(300);
  const float at_equal = s.setup.max_power_w / kPrbs, ceiling = 50;
  for (int f = 0; f < kPrbs; ++f) {
    s.gains[0 * kPrbs + f] = ceiling / at_equal;          // user 0: every report at the ceiling
    s.gains[1 * kPrbs + f] = 0.5f * ceiling / at_equal;   // user 1: none
    s.gains[2 * kPrbs + f] = ceiling / at_equal;          // user 2: at the ceiling, but it repeats a block
  }
  s.owner.assign(kPrbs, -1), s.counts.assign(kUsers, 0);
  for (int u = 0; u < 3; ++u)
    for (int f = 10 * u; f < 10 * u + 10; ++f) s.owner[f] = u, s.counts[u] = 10;
  s.retx_prbs[2] = 10;
  s.setup.report_ceiling_sinr = ceiling;
  const std::vector<float> before = s.ladder();
  s.setup.probe_db = 2;
  const std::vector<float> probed = s.ladder();
  s.setup.report_ceiling_sinr = 0;                        // exact reports have no ceiling
  EXPECT_EQ(s.ladder(), before);
  EXPECT_NEAR(probed[3] / before[3], std::pow(10.0, -0.2), 1e-4);
  for (const int u : {1, 2})
    for (int m = 0; m < kMcs; ++m) EXPECT_EQ(probed[u * TT_CELL_MAX_STEPS + m], before[u * TT_CELL_MAX_STEPS + m]);
}

}  // namespace
}  // namespace trimtab
