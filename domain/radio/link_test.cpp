// Link level: anchors that need no golden file. Published or computed apart from this code: Sionna's tutorial
// value, an independent evaluation of its JSON tables, and TS 38.214 by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "core/error.h"
#include "core/random.h"
#include "domain/radio/link.h"
#include "domain/radio/link_test_util.h"

namespace trimtab::radio {
namespace {

double linear(double db) { return std::pow(10.0, db / 10); }

TransportBlock block_of(int table, int mcs, int64_t num_re) {
  const Mcs scheme = mcs_table(table)[static_cast<size_t>(mcs)];
  return transport_block(scheme, num_re * scheme.modulation_order);
}

TEST(transport_block, sizes_of_the_specification) {
  struct Case {
    int table, mcs;
    int64_t num_prb, size;
  };
  // 14 symbols less 12 resource elements of DMRS: 156 per PRB.
  for (const Case& c : {Case{1, 0, 1, 32},
                        {1, 9, 10, 2088},
                        {1, 28, 51, 44040},
                        {1, 28, 273, 237776},
                        {2, 27, 273, 319784},
                        {2, 27, 106, 122976},
                        {2, 20, 51, 42016}})
    EXPECT_EQ(transport_block(mcs_table(c.table)[c.mcs], c.num_prb, 14, 12, 1).size, c.size)
        << c.mcs << " " << c.num_prb;
}

TEST(transport_block, ties_round_up) {
  EXPECT_EQ(block_of(1, 0, 18944).size, 4488);  // half to even would give 4360
}

TEST(transport_block, counts_at_most_156_resource_elements_per_prb) {
  EXPECT_EQ(transport_block(mcs_table(1)[28], 51, 14, 0, 1).size,
            transport_block(mcs_table(1)[28], 51, 14, 12, 1).size);
}

TEST(transport_block, never_shrinks_with_more_bits_and_splits_evenly) {
  for (const int table : {1, 2, 3, 4})
    for (const Mcs& mcs : mcs_table(table)) {
      int64_t last = 0;
      for (int64_t num_prb = 1; num_prb <= 273; ++num_prb) {
        const TransportBlock tb = transport_block(mcs, num_prb, 13, 12, 1);
        ASSERT_GE(tb.size, last);
        ASSERT_EQ((tb.size + tb.tb_crc) % tb.num_code_blocks, 0);
        ASSERT_EQ(tb.num_code_blocks * (tb.code_block_size - tb.cb_crc), tb.size + tb.tb_crc);
        ASSERT_LE(tb.code_block_size, mcs.rate1024 <= 256 ? 3840 : 8448);
        last = tb.size;
      }
    }
}

TEST(mcs, unknown_table_is_an_error) { EXPECT_THROW(mcs_table(5), ConfigError); }

TEST(eesm, values) {
  const std::vector<float> sinr{1, 2, 4, 8}, two{10, 100};
  EXPECT_NEAR(eesm(sinr, 3.97), 2.997462, 1e-6);
  EXPECT_NEAR(eesm(sinr, 1.6), 2.367932, 1e-6);
  EXPECT_NEAR(eesm(two, 34.28), 31.364685, 1e-6);
}

TEST(eesm, zero_is_unused_and_nothing_underflows) {
  const std::vector<float> with_zeros{0, 1, 2, 0, 4, 8}, strong{900, 900}, none{0, 0}, weak{1e-6f, 1e-6f};
  EXPECT_NEAR(eesm(with_zeros, 3.97), 2.997462, 1e-6);
  EXPECT_NEAR(eesm(strong, 1.6), 900, 1e-9);
  EXPECT_EQ(eesm(none, 1.6), 0);
  EXPECT_EQ(eesm(weak, 1.6), 1e-3);
}

TEST(eesm, table_3_takes_its_calibration_from_table_1) {
  EXPECT_EQ(eesm_beta(3, 28), eesm_beta(1, 24));  // 64QAM 772
  EXPECT_EQ(eesm_beta(3, 15), eesm_beta(1, 10));  // 16QAM 340
  EXPECT_EQ(eesm_beta(3, 0), eesm_beta(1, 0));
  EXPECT_THROW(eesm_beta(4, 0), DataError);
}

TEST(bler, the_value_that_sionna_publishes) {
  EXPECT_NEAR(BlerTables::get().bler(0, 1, 15, 9, 80), 0.0511321, 1e-7);
}

TEST(bler, no_table_means_certain_failure_for_any_number_of_code_blocks) {
  const TransportBlock tb = block_of(1, 2, 39312);
  EXPECT_EQ(tb.num_code_blocks, 4);
  EXPECT_EQ(BlerTables::get().tbler(1, 1, 2, 20, tb), std::numeric_limits<double>::infinity());
}

TEST(bler, ends_of_the_grid_clamp) {
  const BlerTables& tables = BlerTables::get();
  EXPECT_EQ(tables.bler(1, 1, 10, -40, 500), tables.bler(1, 1, 10, -5, 500));
  EXPECT_EQ(tables.bler(1, 1, 10, -std::numeric_limits<double>::infinity(), 500),
            tables.bler(1, 1, 10, -5, 500));
  EXPECT_EQ(tables.bler(1, 1, 28, 60, 500), tables.bler(1, 1, 28, 30, 500));
  for (int index = 0; index < BlerTables::kSinrGrid; ++index)
    EXPECT_EQ(tables.at(1, 1, 20, index, 20), tables.at(1, 1, 20, index, BlerTables::kSizeGrid - 1));
}

TEST(bler, a_damaged_file_is_refused) {
  std::ifstream stream(TRIMTAB_SOURCE_DIR "/data/link/bler_tables.bin", std::ios::binary);
  const std::vector<unsigned char> good((std::istreambuf_iterator<char>(stream)), {});
  ASSERT_GT(good.size(), 1000u);
  EXPECT_NO_THROW(BlerTables(good, "x"));
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest);
  for (int i = 0; i < 200; ++i) {
    const std::vector<unsigned char> cut(good.begin(),
                                         good.begin() + draws.below(static_cast<uint32_t>(good.size())));
    EXPECT_THROW(BlerTables(cut, "x"), DataError) << "seed " << seed << " length " << cut.size();
  }
  std::vector<unsigned char> longer = good, other = good, counts = good;
  longer.push_back(0);
  other[3] = '?';
  counts[11] = 0xff;  // a negative number of groups
  for (const auto& bad : {longer, other, counts}) EXPECT_THROW(BlerTables(bad, "x"), DataError);
}

struct Anchor {
  int table;
  int64_t num_re;
  double sinr_db;
  int mcs;
  int64_t size, code_block_size, num_code_blocks;
  double tbler;
};

TEST(inner_loop, anchors) {
  for (const Anchor& a : {Anchor{1, 1440, 0, 5, 1064, 1080, 1, 0},
                          {1, 1440, 10, 18, 3904, 3928, 1, 0.03311},
                          {1, 7344, 10, 18, 19968, 6688, 3, 0.09607},
                          {1, 7344, 20, 28, 40976, 8224, 5, 0.02148},
                          {1, 39312, 15, 22, 151608, 8448, 18, 0},
                          {1, 1440, -8, 3, 704, 720, 1, 1},
                          {2, 1440, 10, 11, 3904, 3928, 1, 0.001646},
                          {2, 7344, 10, 11, 19968, 6688, 3, 0.00493},
                          {2, 39312, 15, 16, 163976, 8224, 20, 0.08757},
                          {2, 39312, 25, 26, 278776, 8224, 34, 0.02242}}) {
    EXPECT_EQ(inner_loop(a.table, linear(a.sinr_db), a.num_re, 0.1), a.mcs) << a.num_re << " " << a.sinr_db;
    const TransportBlock tb = block_of(a.table, a.mcs, a.num_re);
    EXPECT_EQ(tb.size, a.size);
    EXPECT_EQ(tb.code_block_size, a.code_block_size);
    EXPECT_EQ(tb.num_code_blocks, a.num_code_blocks);
    EXPECT_NEAR(BlerTables::get().tbler(1, a.table, a.mcs, a.sinr_db, tb), a.tbler, 1e-3 * a.tbler)
        << a.num_re;
  }
  EXPECT_EQ(inner_loop(1, 100, 0, 0.1), 0);  // not scheduled
}

TEST(outer_loop, feedback_moves_and_clips_the_offset) {
  const OuterLoopOptions options;
  OuterLoop user;
  user.feedback(0, options);
  EXPECT_DOUBLE_EQ(user.offset_db, 1);
  user.feedback(1, options);
  EXPECT_DOUBLE_EQ(user.offset_db, 1 - 1.0 / 9);
  user.feedback(-1, options);
  EXPECT_DOUBLE_EQ(user.offset_db, 1 - 1.0 / 9);
  for (int i = 0; i < 50; ++i) user.feedback(0, options);
  EXPECT_EQ(user.offset_db, 20);
}

TEST(outer_loop, keeps_the_last_report) {
  const OuterLoopOptions options;
  OuterLoop user;
  EXPECT_EQ(user.choose(1, 0, 1440, options), inner_loop(1, 1, 1440, 0.1));  // starts at 0 dB
  user.choose(1, 100, 1440, options);
  EXPECT_DOUBLE_EQ(user.sinr_db_last, 20);
  EXPECT_EQ(user.choose(1, 0, 1440, options), inner_loop(1, 100, 1440, 0.1));
}

// As long as the offset does not clip, its path bounds the error rate: |NACK up - ACK down| <= range of the
// offset.
TEST(outer_loop, reaches_the_target) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest);
  OuterLoopOptions options;
  options.bler_target = 0.17;
  constexpr int kSlots = 3000;
  OuterLoop user;
  int failures = 0;
  for (int slot = 0; slot < kSlots; ++slot) {
    const double reported_db = 12 + 2 * draws.normal(), true_db = reported_db - 2 + draws.normal();
    const int mcs = user.choose(1, linear(reported_db), 1440, options);
    const bool ack = draws.uniform() >= BlerTables::get().tbler(1, 1, mcs, true_db, block_of(1, mcs, 1440));
    failures += ack ? 0 : 1;
    user.feedback(ack ? 1 : 0, options);
  }
  EXPECT_NEAR(failures / double{kSlots}, options.bler_target, 40 / (kSlots * (1 + options.delta_down_db())))
      << "seed " << seed;
}

TEST(proportional_fair, first_slot_is_the_best_rate_and_the_average_moves_first) {
  ProportionalFair scheduler;
  std::vector<int> user(2);
  const std::vector<float> none{0, 0, 0}, rate{1, 3, 2, 5, 5, 4};
  scheduler.schedule(none, rate, user);
  EXPECT_EQ(user, (std::vector<int>{1, 0}));
  EXPECT_FLOAT_EQ(scheduler.average[0], 0.98f);
}

TEST(proportional_fair, shares_resources_equally_between_users_of_any_strength) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest);
  constexpr int kUsers = 20, kSlots = 10000;
  ProportionalFair scheduler;
  std::vector<float> rate(kUsers), last(kUsers), strength(kUsers);
  std::vector<int> user(1), served(kUsers);
  for (float& s : strength) s = std::exp(2 * draws.normal());
  for (int slot = 0; slot < kSlots; ++slot) {
    for (int u = 0; u < kUsers; ++u) rate[u] = strength[u] * draws.exponential();
    scheduler.schedule(last, rate, user);
    std::fill(last.begin(), last.end(), 0.0f);
    last[user[0]] = rate[user[0]];
    ++served[user[0]];
  }
  const auto [low, high] = std::minmax_element(served.begin(), served.end());
  EXPECT_LT(*high - *low, 0.01 * kSlots) << "seed " << seed;  // Sionna's own bar
}

TEST(cqi, thresholds_rise_and_are_just_met) {
  for (const int table : {1, 2}) {
    EXPECT_EQ(sinr_db_of_cqi(table, 0), -std::numeric_limits<double>::infinity());
    for (int cqi = 1; cqi <= 15; ++cqi) {
      EXPECT_GT(sinr_db_of_cqi(table, cqi), sinr_db_of_cqi(table, cqi - 1)) << table << " " << cqi;
      EXPECT_EQ(cqi_from_sinr_db(table, sinr_db_of_cqi(table, cqi)), cqi);
      EXPECT_EQ(cqi_from_sinr_db(table, sinr_db_of_cqi(table, cqi) - 0.01), cqi - 1);
    }
    EXPECT_EQ(cqi_from_sinr_db(table, -30), 0);
    EXPECT_EQ(cqi_from_sinr_db(table, 60), 15);
  }
  EXPECT_THROW(cqi_from_sinr_db(3, 0), ConfigError);
}

TEST(cqi, ten_percent_of_blocks_fail_at_the_threshold) {
  struct Case {
    int table, cqi, mcs;
  };
  for (const Case& c : {Case{1, 4, 4}, {1, 7, 11}, {1, 15, 28}, {2, 4, 5}, {2, 12, 21}}) {
    const double met = sinr_db_of_cqi(c.table, c.cqi);
    EXPECT_LE(BlerTables::get().bler(1, c.table, c.mcs, met, 8448), 0.1);
    EXPECT_GT(BlerTables::get().bler(1, c.table, c.mcs, met - 0.1, 8448), 0.1);
  }
}

}  // namespace
}  // namespace trimtab::radio
