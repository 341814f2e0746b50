// The slot's fast path against its definition, and the combining of retransmissions.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "domain/radio/link.h"
#include "domain/radio/link_test_util.h"

namespace trimtab::radio {
namespace {

// Tables are built once per configuration.
const LinkTables& tables_of(LinkMode mode, int mcs_table, int num_prb) {
  static std::map<std::tuple<LinkMode, int, int>, LinkTables> built;
  LinkTables::Options options;
  options.mode = mode;
  options.mcs_table = mcs_table;
  options.num_prb = num_prb;
  return built.try_emplace({mode, mcs_table, num_prb}, options).first->second;
}

// Strong and weak users, flat and selective, with zeros and extremes.
std::vector<float> random_grid(Draws& draws, size_t size) {
  const float center_db = draws.uniform(-35, 40),
              spread_db = draws.uniform() < 0.2f ? 0.0f : draws.uniform(0, 15);
  const float zeros = draws.uniform() < 0.3f ? draws.uniform() : 0.0f;
  std::vector<float> sinr(size);
  for (float& s : sinr)
    s = draws.uniform() < zeros ? 0.0f : std::pow(10.0f, (center_db + spread_db * draws.normal()) / 10);
  return sinr;
}

size_t used_prbs(const LinkTables& link, std::span<const float> sinr) {
  if (link.options().mode == LinkMode::kSpec) return sinr.size();
  return static_cast<size_t>(std::count_if(sinr.begin(), sinr.end(), [](float s) { return s > 0; }));
}

// Every MCS tried from the top.
int choose_by_definition(const LinkTables& link, std::span<const float> sinr, float offset_db, float target) {
  const int prbs = static_cast<int>(used_prbs(link, sinr));
  if (prbs == 0) return 0;
  for (int mcs = link.num_mcs() - 1; mcs > link.min_mcs(); --mcs)
    if (link.tbler(mcs, prbs, link.effective_sinr_db(sinr, mcs) - offset_db) <= target) return mcs;
  return link.min_mcs();
}

// EESM in double precision: all entries count in `spec` mode.
double reference_db(const LinkTables& link, std::span<const float> sinr, int mcs) {
  const bool spec = link.options().mode == LinkMode::kSpec;
  double smallest = 1e300, sum = 0, used = 0;
  for (const double s : sinr)
    if (spec || s > 0) smallest = std::min(smallest, s), ++used;
  for (const double s : sinr)
    if (spec || s > 0) sum += std::expm1(-(s - smallest) / link.beta(mcs));
  return std::clamp(10 * std::log10(smallest - link.beta(mcs) * std::log1p(sum / used)), -30.0, 30.0);
}

class LinkTablesModes : public testing::TestWithParam<std::tuple<LinkMode, int>> {
 protected:
  const LinkTables& link(int num_prb) const {
    return tables_of(std::get<0>(GetParam()), std::get<1>(GetParam()), num_prb);
  }
};

TEST_P(LinkTablesModes, effective_sinr_is_accurate) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest, 1);
  for (int i = 0; i < 2000; ++i) {
    const std::vector<float> sinr = random_grid(draws, 1 + draws.below(i % 10 == 0 ? 273 : 20));
    const int mcs = static_cast<int>(draws.below(link(273).num_mcs()));
    if (used_prbs(link(273), sinr) == 0) {
      EXPECT_EQ(link(273).effective_sinr_db(sinr, mcs), -30);
    } else {
      ASSERT_NEAR(link(273).effective_sinr_db(sinr, mcs), reference_db(link(273), sinr, mcs), 1e-3)
          << "seed " << seed << " case " << i;
    }
  }
}

TEST_P(LinkTablesModes, search_finds_what_the_definition_says) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest, 2);
  for (int i = 0; i < 4000; ++i) {
    const LinkTables& tables = link(i % 10 == 0 ? 273 : 51);
    const std::vector<float> sinr = random_grid(draws, 1 + draws.below(i % 10 == 0  ? 273
                                                                       : i % 3 == 0 ? 51
                                                                                    : 8));
    const float offset_db = draws.uniform(-20, 20), target = i % 4 == 0 ? draws.uniform(0.001f, 0.9f) : 0.1f;
    ASSERT_EQ(tables.choose_mcs(sinr, offset_db, target),
              choose_by_definition(tables, sinr, offset_db, target))
        << "seed " << seed << " case " << i;
  }
}

TEST_P(LinkTablesModes, a_slot_at_once_is_user_by_user) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest, 3);
  for (int i = 0; i < 300; ++i) {
    std::vector<float> sinr, offset_db;
    std::vector<int32_t> begin{0};
    for (uint32_t u = 0, num_users = draws.below(40); u < num_users; ++u) {
      const std::vector<float> part = random_grid(draws, draws.below(12));  // a user may have nothing
      sinr.insert(sinr.end(), part.begin(), part.end());
      begin.push_back(static_cast<int32_t>(sinr.size()));
      offset_db.push_back(draws.uniform(-5, 5));
    }
    std::vector<int32_t> mcs(offset_db.size());
    std::vector<float> sinr_eff_db(offset_db.size());
    link(51).choose_mcs(sinr, begin, offset_db, 0.1f, mcs);
    link(51).effective_sinr_db(sinr, begin, mcs, sinr_eff_db);
    for (size_t u = 0; u < mcs.size(); ++u) {
      const auto part = std::span<const float>(sinr).subspan(begin[u], begin[u + 1] - begin[u]);
      ASSERT_EQ(mcs[u], link(51).choose_mcs(part, offset_db[u], 0.1f))
          << "seed " << seed << " case " << i << " user " << u;
      ASSERT_EQ(sinr_eff_db[u], link(51).effective_sinr_db(part, mcs[u])) << "seed " << seed << " case " << i;
    }
  }
}

TEST_P(LinkTablesModes, rates_and_sizes_are_those_of_the_slow_functions) {
  const uint64_t seed = test_seed();
  Draws draws(seed, Stream::kTest, 4);
  const LinkTables& tables = link(273);
  for (int i = 0; i < 5000; ++i) {
    const int mcs = static_cast<int>(draws.below(tables.num_mcs())),
              prbs = 1 + static_cast<int>(draws.below(273));
    const Mcs scheme = mcs_table(tables.options().mcs_table)[mcs];
    const TransportBlock tb = transport_block(scheme, int64_t{prbs} * 132 * scheme.modulation_order);
    ASSERT_EQ(tables.tb_size(mcs, prbs), tb.size);
    const float sinr_db = draws.uniform(-12, 36);
    const double slow = BlerTables::get().tbler(1, tables.options().mcs_table, mcs, sinr_db, tb);
    ASSERT_EQ(tables.tbler(mcs, prbs, sinr_db), mcs < tables.min_mcs() ? 1 : slow)
        << mcs << " " << prbs << " " << sinr_db;
    ASSERT_EQ(tables.tbler_combined(mcs, prbs, mcs, sinr_db), tables.tbler(mcs, prbs, sinr_db));
  }
}

TEST_P(LinkTablesModes, thresholds_hold_from_there_on) {
  const LinkTables& tables = link(51);
  for (int mcs = 0; mcs < tables.num_mcs(); ++mcs)
    for (const int prbs : {1, 5, 51}) {
      const float threshold = tables.threshold_db(mcs, prbs, 0.1f);
      if (std::isinf(threshold)) {
        EXPECT_GT(tables.tbler(mcs, prbs, 30), 0.1f);
        continue;
      }
      for (float sinr_db = threshold; sinr_db < 30; sinr_db += 0.1f)
        ASSERT_LE(tables.tbler(mcs, prbs, sinr_db), 0.1f);
      if (threshold > -4.95f) {
        EXPECT_GT(tables.tbler(mcs, prbs, threshold - 0.1f), 0.1f) << mcs << " " << prbs;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(tables, LinkTablesModes,
                         testing::Combine(testing::Values(LinkMode::kSionna, LinkMode::kSpec),
                                          testing::Values(1, 2, 3)));

// 12 PRBs of 120 resource elements are the 1440 of the anchors; single precision and the grid decide the last
// digit.
TEST(link_tables, thresholds_of_table_1) {
  LinkTables::Options options;
  options.num_prb = 12;
  options.re_per_prb = 120;
  const LinkTables tables(options);
  const std::vector<float> expected{-2.9f, -1.9f, -1.0f, 0.5f,  0.8f,  2.4f,  2.5f,  2.9f,  4.2f,
                                    4.5f,  6.0f,  6.3f,  7.9f,  7.9f,  8.8f,  9.8f,  10.1f, 11.6f,
                                    12.3f, 13.4f, 14.3f, 15.0f, 16.6f, 17.1f, 18.4f, 19.0f};
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(tables.threshold_db(static_cast<int>(i) + 3, 12, 0.1f), expected[i], 1e-4) << "MCS " << i + 3;
}

TEST(link_tables, a_prb_without_power_counts_in_spec_mode_only) {
  const std::vector<float> sinr{100, 100, 0};
  EXPECT_NEAR(tables_of(LinkMode::kSionna, 1, 51).effective_sinr_db(sinr, 10), 20, 1e-4);
  EXPECT_LT(tables_of(LinkMode::kSpec, 1, 51).effective_sinr_db(sinr, 10), 8);
}

TEST(link_tables, the_specification_caps_resource_elements) {
  LinkTables::Options options;
  options.num_prb = 10;
  options.re_per_prb = 168;
  const LinkTables spec(options);
  options.mode = LinkMode::kSionna;
  const LinkTables sionna(options);
  EXPECT_EQ(spec.tb_size(10, 10), transport_block(mcs_table(1)[10], 10, 14, 0, 1).size);
  EXPECT_GT(sionna.tb_size(10, 10), spec.tb_size(10, 10));
}

TEST(link_tables, wrong_options_are_refused) {
  LinkTables::Options options;
  options.mcs_table = 4;
  EXPECT_THROW(LinkTables{options}, ConfigError);
  options = {};
  options.num_prb = 0;
  EXPECT_THROW(LinkTables{options}, ConfigError);
}

TEST(harq, equivalent_mcs_keeps_the_modulation_and_is_never_too_optimistic) {
  const LinkTables& tables = tables_of(LinkMode::kSpec, 1, 51);
  EXPECT_EQ(tables.equivalent_mcs(9, 679, 1024), 9);
  EXPECT_EQ(tables.equivalent_mcs(9, 679, 2 * 1024), 5);    // 339.5 / 1024: the next rate is 379
  EXPECT_EQ(tables.equivalent_mcs(9, 679, 4 * 1024), 3);    // below the lowest curve
  EXPECT_EQ(tables.equivalent_mcs(16, 658, 4 * 1024), 10);  // lowest 16QAM
  EXPECT_EQ(tables.equivalent_mcs(28, 948, 2 * 1024), 19);  // 474: 466 is too low, 517 is MCS 19
}

TEST(harq, incremental_redundancy_helps) {
  const LinkTables& tables = tables_of(LinkMode::kSpec, 1, 51);
  const float first = tables.tbler(9, 10, 0.0f), second = tables.tbler_combined(9, 10, 5, 0.0f);
  EXPECT_GT(first, 0.99f);
  EXPECT_LT(second, 0.5f);
}

TEST(harq, chase_combining_adds_and_wraps_around) {
  std::vector<float> sum{1, 2, 3};
  chase_combine(sum, std::vector<float>{10, 10, 10});
  EXPECT_EQ(sum, (std::vector<float>{11, 12, 13}));
  chase_combine(sum, std::vector<float>{1});
  EXPECT_EQ(sum, (std::vector<float>{12, 12, 13}));
  chase_combine(sum, std::vector<float>{1, 2, 3, 4, 5});
  EXPECT_EQ(sum, (std::vector<float>{17, 19, 16}));
}

}  // namespace
}  // namespace trimtab::radio
