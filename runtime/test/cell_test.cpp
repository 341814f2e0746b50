// Rules that work on whole vectors against the plain ones that they stand for: buying power steps, placing retransmissions.
#include "trimtab/cell.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "random_cases.h"

namespace {

constexpr float kOutOfReach = 3e38f;

struct Ladders {
  int num_users;
  std::vector<float> power, bits;
  std::vector<int> counts;
  std::vector<int32_t> retx_prbs, retx_mcs;
};

// Watts grow by uneven factors and bits by uneven steps, some of them backwards; the lowest and highest rows may be missing.
Ladders random_ladders(RandomCases& random, int num_users) {
  const int size = num_users * TT_CELL_MAX_STEPS;
  Ladders l{num_users, std::vector<float>(size, kOutOfReach), std::vector<float>(size), std::vector<int>(num_users),
            std::vector<int32_t>(num_users), std::vector<int32_t>(num_users)};
  for (int u = 0; u < num_users; ++u) {
    l.counts[u] = random.integer(0, 3) ? random.integer(1, 20) : 0;
    l.retx_prbs[u] = random.integer(0, 5) ? 0 : l.counts[u];
    l.retx_mcs[u] = random.integer(2, 20);
    float watts = 1e-3f * std::exp(2 * random.normal()), bits = 100;
    for (int m = 0; m < 28 && l.counts[u] > 0; ++m) {
      watts *= random.uniform(1.0f, 1.7f);
      bits += random.uniform(-5, 100);
      l.bits[u * TT_CELL_MAX_STEPS + m] = bits;
      if (m >= 2 && m < 28 - u % 4) l.power[u * TT_CELL_MAX_STEPS + m] = watts;
    }
  }
  return l;
}

// As it is defined: the affordable step of most bits per watt, again and again, then all in proportion to the budget.
std::vector<double> greedy(const Ladders& l, double budget) {
  std::vector<double> watts(l.num_users, 0);
  double left = budget, assigned = 0;
  for (int n : l.counts) assigned += n;
  for (int u = 0; u < l.num_users; ++u)
    if (l.counts[u] > 0 && l.retx_prbs[u] > 0)
      left -= watts[u] = std::min<double>(l.power[u * TT_CELL_MAX_STEPS + l.retx_mcs[u]], 2 * budget * l.counts[u] / assigned);
  for (std::vector<int> at(l.num_users, -1);;) {
    double best = 0;
    int who = -1, row = -1;
    for (int u = 0; u < l.num_users; ++u) {
      const float *power = &l.power[u * TT_CELL_MAX_STEPS], *bits = &l.bits[u * TT_CELL_MAX_STEPS];
      for (int m = at[u] + 1; m < TT_CELL_MAX_STEPS && l.counts[u] > 0 && l.retx_prbs[u] == 0; ++m) {
        const double cost = power[m] - watts[u], gain = at[u] < 0 ? bits[m] : bits[m] - bits[at[u]];
        if (gain > 0 && cost <= left && gain / cost > best) best = gain / cost, who = u, row = m;
      }
    }
    if (who < 0) break;
    left -= l.power[who * TT_CELL_MAX_STEPS + row] - watts[who];
    watts[who] = l.power[who * TT_CELL_MAX_STEPS + row];
    at[who] = row;
  }
  double used = 0;
  for (double w : watts) used += w;
  for (int u = 0; u < l.num_users; ++u)
    watts[u] = used > 0 ? watts[u] * budget / used : assigned > 0 ? budget * l.counts[u] / assigned : 0;
  return watts;
}

TEST(FillPower, BuysWhatTheGreedyRuleBuys) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  int differ = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const Ladders l = random_ladders(random, random.integer(1, 32));
    tt_cell_setup setup{};
    setup.max_power_w = std::exp(2 * random.normal());
    setup.num_mcs = 28;
    tt_cell_slot slot{};
    slot.num_users = l.num_users;
    slot.retx_prbs = l.retx_prbs.data();
    slot.retx_mcs = l.retx_mcs.data();
    std::vector<float> memory(tt_cell_scratch_floats(l.num_users, 273)), watts(l.num_users);
    tt_cell_scratch scratch;
    tt_cell_scratch_init(&scratch, l.num_users, 273, memory.data());
    std::copy(l.power.begin(), l.power.end(), scratch.power);
    std::copy(l.bits.begin(), l.bits.end(), scratch.bits);
    tt_cell_fill_power(&setup, &slot, l.counts.data(), &scratch, watts.data());
    const std::vector<double> expected = greedy(l, setup.max_power_w);
    bool same = true;
    for (int u = 0; u < l.num_users; ++u) same = same && std::abs(watts[u] - expected[u]) <= 1e-3 * setup.max_power_w;
    differ += !same;
  }
  EXPECT_LE(differ, 2);   // where rounding decides whether a last step is affordable
}

struct Slot {
  int users, prbs;
  std::vector<float> efficiency, weight;
  std::vector<int> owner, counts;
  std::vector<int32_t> retx;
  std::vector<uint8_t> active;
};

// As it is defined: one PRB after the other.
void place_one_by_one(Slot& s) {
  const auto pick = [&](int from, int user, int sign) {
    int best = -1;
    for (int f = 0; f < s.prbs; ++f) {
      const float* row = &s.efficiency[user * s.prbs];
      if (s.owner[f] == from && (best < 0 || sign * row[f] > sign * row[best])) best = f;
    }
    return best;
  };
  const auto move = [&](int f, int to) {
    if (s.owner[f] >= 0) --s.counts[s.owner[f]];
    if (to >= 0) ++s.counts[to];
    s.owner[f] = to;
  };
  for (int u = 0; u < s.users; ++u)
    while (s.retx[u] > 0 && s.counts[u] > s.retx[u]) {
      const int f = pick(u, u, -1);
      float metric = 0;
      int other = -1;
      for (int v = 0; v < s.users; ++v) {
        const float m = s.weight[v] * s.efficiency[v * s.prbs + f];
        if (s.retx[v] == 0 && s.active[v] && m > metric) metric = m, other = v;
      }
      move(f, other);
    }
  for (int u = 0; u < s.users; ++u)
    while (s.counts[u] < std::min(s.retx[u], s.prbs)) {
      int from = -1;
      if (pick(-1, u, 1) < 0) {
        for (int v = 0; v < s.users; ++v)
          if (v != u && s.retx[v] == 0 && s.counts[v] > 0 && (from < 0 || s.counts[v] > s.counts[from])) from = v;
        if (from < 0) break;
      }
      move(pick(from, u, 1), u);
    }
}

TEST(PlaceRetransmissions, EqualsPlacingOneByOne) {
  RandomCases random;
  SCOPED_TRACE(random.seed_text());
  for (int trial = 0; trial < 3000; ++trial) {
    Slot s{random.integer(1, 20), random.integer(1, 120), {}, {}, {}, {}, {}, {}};
    for (int k = 0; k < s.users * s.prbs; ++k)   // few levels, so that ties happen
      s.efficiency.push_back(trial % 2 ? random.uniform(0, 6) : static_cast<float>(random.integer(0, 4)));
    s.counts.assign(s.users, 0);
    for (int u = 0; u < s.users; ++u) {
      s.weight.push_back(random.uniform(0.1f, 1));
      s.active.push_back(random.integer(0, 4) > 0);
      s.retx.push_back(random.integer(0, 2) ? 0 : random.integer(1, trial % 5 ? s.prbs / 4 + 1 : 2 * s.prbs));
    }
    for (int f = 0; f < s.prbs; ++f) s.owner.push_back(random.integer(-1, std::min(s.users, 1 + trial % 7) - 1));
    for (int u : s.owner)
      if (u >= 0) ++s.counts[u];
    tt_cell_setup setup{};
    setup.num_prb = s.prbs;
    tt_cell_slot slot{};
    slot.num_users = s.users;
    slot.retx_prbs = s.retx.data();
    slot.active = s.active.data();
    Slot expected = s;
    place_one_by_one(expected);
    tt_cell_place_retransmissions(&setup, &slot, s.weight.data(), s.efficiency.data(), s.owner.data(), s.counts.data());
    ASSERT_EQ(s.owner, expected.owner) << "trial " << trial;
    ASSERT_EQ(s.counts, expected.counts);
  }
}

}  // namespace
