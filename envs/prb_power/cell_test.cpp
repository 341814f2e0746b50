// The cell: invariants of a slot on any assignment, and the rules its README states.
#include "envs/prb_power/cell.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <numeric>

#include "core/random.h"
#include "envs/prb_power/data.h"

namespace trimtab {
namespace {

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 1;
}

PrbPowerOptions synthetic(int64_t users = 10, int64_t prbs = 51) {
  PrbPowerOptions o;
  o.data = "synthetic";
  o.synthetic.num_users = users;
  o.synthetic.num_prb = prbs;
  o.synthetic.slots = 400;
  o.cell.tx_power_dbm = 30;
  return o;
}
Cell make(const PrbPowerOptions& o) { return Cell(o, open_sources(o, {})); }

double sum(const std::vector<float>& x) { return std::accumulate(x.begin(), x.end(), 0.0); }

void expect_valid_slot(const Cell& cell, const Cell::State& s) {
  std::vector<int> counts(cell.num_users(), 0);
  for (const int owner : s.owner) {
    ASSERT_GE(owner, -1);
    ASSERT_LT(owner, cell.num_users());
    if (owner >= 0) ++counts[owner];
  }
  EXPECT_EQ(counts, s.counts);
  const double budget = std::pow(10.0, cell.options().cell.tx_power_dbm / 10) * 1e-3;
  EXPECT_LE(sum(s.prb_power_w), budget * 1.0001);
  for (const float p : s.prb_power_w) EXPECT_GE(p, 0.0f);
}

TEST(prb_power_cell, random_shares_always_give_a_valid_slot) {
  for (const int64_t rbg : {1, 4}) {
    PrbPowerOptions o = synthetic();
    o.cell.rbg_size = rbg;
    o.cell.max_users_per_slot = rbg == 1 ? 0 : 3;
    const Cell cell = make(o);
    Cell::State s;
    cell.reset(s, {test_seed(), 3});
    Draws draws(test_seed(), Stream::kTest, 1);
    std::vector<float> shares(cell.num_users());
    float terms[3];
    for (int t = 0; t < 150; ++t) {
      for (float& x : shares) x = draws.exponential();
      cell.act(s, 0, shares.data());
      int owned = 0;
      for (const int c : s.counts) owned += c;
      EXPECT_EQ(owned, cell.num_prb());   // the resolver hands out every PRB
      for (float& x : shares) x = draws.exponential();
      cell.act(s, 1, shares.data());
      expect_valid_slot(cell, s);
      cell.step(s, terms);
      ASSERT_TRUE(std::isfinite(terms[0] + terms[1] + terms[2]));
    }
    EXPECT_GT(s.totals.bits, 0);
  }
}

TEST(prb_power_cell, resolver_repeats_proportional_fair_when_given_its_counts) {
  const Cell cell = make(synthetic());
  Cell::State s;
  cell.reset(s, {test_seed(), 5});
  int same = 0, all = 0;
  for (int t = 0; t < 100; ++t) {
    Cell::State copy = s;
    cell.schedule(s, prb_rule("pf"));
    std::vector<float> shares(s.counts.begin(), s.counts.end());
    bool retransmission = false;
    for (const int n : s.retx_prbs) retransmission |= n > 0;
    if (!retransmission) {   // otherwise the counts are not proportional fair's own
      cell.assign_shares(copy, shares.data());
      for (int f = 0; f < cell.num_prb(); ++f) same += s.owner[f] == copy.owner[f], ++all;
      EXPECT_EQ(s.counts, copy.counts);
    }
    cell.split_power(s, PowerRule::kEqual);
    cell.transmit(s);
  }
  ASSERT_GT(all, 500);
  EXPECT_GT(same, 0.97 * all);   // saturated PRBs are ties for proportional fair; the resolver breaks them by SINR
}

TEST(prb_power_cell, same_world_for_different_policies) {
  const Cell cell = make(synthetic());
  Cell::State a, b;
  cell.reset(a, {7, 11});
  cell.reset(b, {7, 11});
  for (int t = 0; t < 50; ++t) {
    cell.schedule(a, prb_rule("pf"));
    cell.schedule(b, prb_rule("max_ci"));
    cell.split_power(a, PowerRule::kEqual);
    cell.split_power(b, PowerRule::kLadder);
    cell.transmit(a);
    cell.transmit(b);
    EXPECT_EQ(a.sinr_per_watt, b.sinr_per_watt);
  }
}

// Proportional fair serves nobody in outage, so the loop has room on both sides most of the time.
TEST(prb_power_cell, outer_loop_meets_its_target_where_the_table_does_not_end) {
  PrbPowerOptions o = synthetic();
  o.cell.tx_power_dbm = 20;
  o.csi.delay_slots = 4;
  o.episode_slots = 380;
  const Cell cell = make(o);
  double errors = 0, blocks = 0;
  for (uint64_t episode = 0; episode < 6; ++episode) {
    Cell::State s;
    cell.reset(s, {test_seed(), episode});
    for (int t = 0; t < 380; ++t) {
      cell.schedule(s, prb_rule("pf"));
      cell.split_power(s, PowerRule::kEqual);
      cell.transmit(s);
    }
    errors += s.totals.first_errors;
    blocks += s.totals.first_blocks;
  }
  EXPECT_GT(errors / blocks, 0.02);
  EXPECT_LT(errors / blocks, 0.2);
}

TEST(prb_power_cell, power_rules_spend_the_budget) {
  const Cell cell = make(synthetic());
  Cell::State s;
  cell.reset(s, {test_seed(), 2});
  for (int t = 0; t < 20; ++t) {
    for (const PowerRule rule : {PowerRule::kEqual, PowerRule::kFair, PowerRule::kWaterFilling, PowerRule::kLadder}) {
      cell.schedule(s, prb_rule("pf"));
      cell.split_power(s, rule);
      expect_valid_slot(cell, s);
      EXPECT_NEAR(sum(s.prb_power_w), 1.0, 2e-3);   // 30 dBm
    }
    cell.transmit(s);
  }
}

TEST(prb_power_cell, finite_buffers_deliver_what_arrives_and_measure_delay) {
  PrbPowerOptions o = synthetic(4);
  for (const char* type : {"poisson", "bursty", "constant"}) {
    o.traffic.type = type;
    o.traffic.rate_mbps = 1.5;
    o.cell.tx_power_dbm = 46;
    o.episode_slots = 390;
    const Cell cell = make(o);
    double bits = 0, packets = 0;
    for (uint64_t episode = 0; episode < 8; ++episode) {
      Cell::State s;
      cell.reset(s, {test_seed(), episode});
      for (int t = 0; t < 390; ++t) {
        cell.schedule(s, prb_rule("pf"));
        cell.split_power(s, PowerRule::kEqual);
        cell.transmit(s);
      }
      bits += s.totals.bits;
      packets += sum(s.delays);
    }
    const double offered = 8 * 4 * 1.5e6 * 390 * 0.5e-3;
    EXPECT_NEAR(bits / offered, 1.0, std::string(type) == "bursty" ? 0.45 : 0.15) << type;
    EXPECT_NEAR(packets * 12000 / bits, 1.0, 0.05) << type;
  }
}

TEST(prb_power_cell, a_failed_block_is_sent_again_on_as_many_prbs_and_first) {
  PrbPowerOptions o = synthetic();
  o.cell.tx_power_dbm = 20;
  o.csi.delay_slots = 10;
  const Cell cell = make(o);
  Cell::State s;
  cell.reset(s, {test_seed(), 1});
  int seen = 0;
  for (int t = 0; t < 200; ++t) {
    cell.schedule(s, prb_rule("pf"));
    int needed = 0;
    for (const int n : s.retx_prbs) needed += n;
    for (int u = 0; u < cell.num_users() && needed <= cell.num_prb(); ++u) {
      if (s.retx_prbs[u] == 0) continue;
      EXPECT_EQ(s.counts[u], s.retx_prbs[u]);
      ++seen;
    }
    cell.split_power(s, PowerRule::kLadder);
    for (int u = 0; u < cell.num_users(); ++u) {
      if (s.counts[u] > 0 && s.retx_prbs[u] > 0) {
        EXPECT_GT(s.user_power_w[u], 0.0f);
      }
    }
    cell.transmit(s);
  }
  EXPECT_GT(seen, 5);
}

TEST(prb_power_cell, permuting_users_permutes_the_features) {
  const Cell cell = make(synthetic());
  Cell::State s;
  cell.reset(s, {test_seed(), 4});
  for (int t = 0; t < 30; ++t) {
    cell.schedule(s, prb_rule("pf"));
    cell.split_power(s, PowerRule::kEqual);
    cell.transmit(s);
  }
  const int num_users = cell.num_users();
  std::vector<float> context(TT_CELL_CONTEXT), items(num_users * TT_CELL_PRB_FEATURES), context2 = context, items2 = items;
  std::vector<uint8_t> mask(num_users);
  cell.observe(s, 0, {context.data(), items.data(), mask.data()});
  Cell::State r = s;   // users in reverse order
  for (auto* v : {&r.average, &r.offset_db, &r.reliability, &r.backlog_bits, &r.delay_slots}) std::reverse(v->begin(), v->end());
  std::reverse(r.active.begin(), r.active.end());
  std::reverse(r.retx_prbs.begin(), r.retx_prbs.end());
  const int num_prb = cell.num_prb();
  for (int u = 0; u < num_users; ++u) {
    std::copy_n(&s.scratch[static_cast<size_t>(u) * num_prb], num_prb, &r.scratch[static_cast<size_t>(num_users - 1 - u) * num_prb]);
  }
  cell.observe(r, 0, {context2.data(), items2.data(), mask.data()});
  for (int k = 0; k < TT_CELL_CONTEXT; ++k) EXPECT_NEAR(context[k], context2[k], 1e-4);
  for (int u = 0; u < num_users; ++u)
    for (int k = 1; k < 11; ++k)   // features 0 and 11 follow proportional fair, which breaks ties by index
      EXPECT_NEAR(items[u * TT_CELL_PRB_FEATURES + k], items2[(num_users - 1 - u) * TT_CELL_PRB_FEATURES + k], 1e-4);
}

TEST(prb_power_cell, state_can_be_saved_and_restored_mid_episode) {
  PrbPowerOptions o = synthetic();
  o.traffic.type = "poisson";
  const Cell cell = make(o);
  Cell::State s, restored;
  cell.reset(s, {test_seed(), 9});
  const auto slots = [&](Cell::State& state, int n) {
    for (int t = 0; t < n; ++t) {
      cell.schedule(state, prb_rule("pf"));
      cell.split_power(state, PowerRule::kLadder);
      cell.transmit(state);
    }
  };
  slots(s, 40);
  Archive out = Archive::writer();
  cell.serialise(s, out);
  Archive in = Archive::reader(out.bytes());
  cell.serialise(restored, in);
  EXPECT_TRUE(in.at_end());
  slots(s, 40);
  slots(restored, 40);
  EXPECT_EQ(s.total_bits, restored.total_bits);
  EXPECT_EQ(s.offset_db, restored.offset_db);
}

TEST(prb_power_cell, an_episode_may_use_up_its_drop) {
  PrbPowerOptions o = synthetic();
  o.episode_slots = o.synthetic.slots;
  const Cell cell = make(o);
  Cell::State s;
  cell.reset(s, {test_seed(), 6});
  ASSERT_EQ(s.first_slot, 0);
  std::vector<float> last;
  for (int64_t t = 0; t < o.episode_slots; ++t) {
    last = s.sinr_per_watt;
    cell.schedule(s, prb_rule("pf"));
    cell.split_power(s, PowerRule::kEqual);
    cell.transmit(s);
  }
  EXPECT_EQ(s.sinr_per_watt, last);   // what bootstrapping sees: the last report again, nothing from beyond the drop
}

TEST(prb_power_cell, mismatched_traces_are_refused_with_the_cure) {
  PrbPowerOptions o = synthetic();
  o.cell.num_users = 12;
  try {
    make(o);
    FAIL() << "12 users out of 10 were accepted";
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find("env.cell.num_users"), std::string::npos) << e.what();
  }
  o.cell.num_users = 0;
  o.episode_slots = 5000;
  EXPECT_THROW(make(o), DataError);
}

}  // namespace
}  // namespace trimtab
