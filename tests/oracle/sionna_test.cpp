// The link level against Sionna SYS: every case of data/golden/sionna_sys.json, and of any further file of
// that form named in TRIMTAB_SIONNA_GOLDEN (made with another version, or with other seeds).
//
// Values agree to 1e-5 relative, decisions exactly. Where Sionna's single precision or its solver's tolerance
// is the limit, the file gives a stable value too (`sinr_eff_stable`, `*_tight`), and that one counts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "domain/radio/cfr.h"
#include "domain/radio/link.h"

namespace trimtab::radio {
namespace {

using nlohmann::json;

struct Golden {
  std::string file;
  json content;
};

const std::vector<Golden>& golden_files() {
  static const std::vector<Golden> files = [] {
    std::vector<std::string> names{TRIMTAB_SOURCE_DIR "/data/golden/sionna_sys.json"};
    if (const char* further = std::getenv("TRIMTAB_SIONNA_GOLDEN")) names.push_back(further);
    std::vector<Golden> read;
    for (const std::string& name : names) {
      std::ifstream stream(name);
      if (!stream)
        throw DataError(name + " cannot be read: unset TRIMTAB_SIONNA_GOLDEN or name a readable file");
      read.push_back({name, json::parse(stream)});
    }
    return read;
  }();
  return files;
}

// Calls check(case) for every case of a list in every file, and makes sure there are any.
template <class Check>
void for_each_case(const char* section, const char* list, Check check) {
  for (const Golden& golden : golden_files()) {
    const json& cases = golden.content.at(section).at(list);
    ASSERT_FALSE(cases.empty()) << golden.file;
    for (size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(golden.file + " " + section + "." + list + "[" + std::to_string(i) + "]");
      check(cases[i]);
      if (testing::Test::HasFailure()) return;
    }
  }
}

// A number; infinity is written as the string "inf".
double number(const json& value) {
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}

void expect_close(double ours, double theirs, const char* what, double absolute = 0) {
  if (std::isinf(theirs) || std::isinf(ours)) {
    EXPECT_EQ(ours, theirs) << what;
  } else {
    EXPECT_LE(std::abs(ours - theirs), 1e-5 * std::abs(theirs) + absolute)
        << what << ": " << ours << " against " << theirs;
  }
}

std::vector<float> flatten(const json& nested) {
  if (!nested.is_array()) return {nested.get<float>()};
  std::vector<float> flat;
  for (const json& inner : nested) {
    const std::vector<float> part = flatten(inner);
    flat.insert(flat.end(), part.begin(), part.end());
  }
  return flat;
}

double to_db(double linear) { return 10 * std::log10(linear); }

TEST(sionna_mcs, tables) {
  for (const Golden& golden : golden_files()) {
    for (const auto& [table, entries] : golden.content.at("mcs_tables").at("tables").items()) {
      const auto ours = mcs_table(std::stoi(table));
      ASSERT_EQ(ours.size(), entries.size()) << table;
      for (const json& entry : entries) {
        const Mcs mcs = ours[entry.at("mcs").get<size_t>()];
        EXPECT_EQ(mcs.modulation_order, entry.at("qm").get<int>()) << table << " " << entry;
        EXPECT_NEAR(mcs.rate1024, entry.at("rate1024").get<double>(), 1e-3) << table << " " << entry;
      }
    }
  }
}

TEST(sionna_tbs, from_an_allocation) {
  for_each_case("tbs", "cases", [](const json& c) {
    const Mcs mcs = mcs_table(c.at("table"))[c.at("mcs").get<size_t>()];
    const TransportBlock tb =
        transport_block(mcs, c.at("num_prb").get<int64_t>(), c.at("num_symbols").get<int64_t>(),
                        c.at("num_dmrs_per_prb").get<int64_t>(), c.at("num_layers").get<int64_t>());
    EXPECT_EQ(tb.size, c.at("tb_size").get<int64_t>());
    EXPECT_EQ(tb.size, c.at("spec_tb_size").get<int64_t>());
    EXPECT_EQ(tb.code_block_size, c.at("cb_size").get<int64_t>());
    EXPECT_EQ(tb.num_code_blocks, c.at("num_cb").get<int64_t>());
    EXPECT_EQ(tb.tb_crc, c.at("tb_crc").get<int64_t>());
    EXPECT_EQ(tb.cb_crc, c.at("cb_crc").get<int64_t>());
  });
}

TEST(sionna_eesm, beta) {
  for (const Golden& golden : golden_files())
    for (const auto& [table, betas] : golden.content.at("eesm").at("beta").items())
      for (size_t mcs = 0; mcs < betas.size(); ++mcs)
        expect_close(eesm_beta(std::stoi(table), static_cast<int>(mcs)), betas[mcs].get<double>(), "beta");
}

TEST(sionna_eesm, matches_golden) {
  for_each_case("eesm", "cases", [](const json& c) {
    const int table = c.at("table"), mcs = c.at("mcs");
    const std::vector<float> sinr = flatten(c.at("sinr"));
    const int64_t used = std::count_if(sinr.begin(), sinr.end(), [](float s) { return s > 0; });
    EXPECT_EQ(used, c.at("num_allocated_re").get<int64_t>());
    const double sinr_eff = eesm(sinr, eesm_beta(table, mcs));
    expect_close(sinr_eff, c.at("sinr_eff_stable"), "sinr_eff");
    if (used == 0 || c.at("float32_underflow").get<bool>()) return;
    const Mcs scheme = mcs_table(table)[static_cast<size_t>(mcs)];
    const TransportBlock tb = transport_block(scheme, used * scheme.modulation_order);
    const BlerTables& tables = BlerTables::get();
    expect_close(tables.bler(1, table, mcs, to_db(sinr_eff), tb.code_block_size), number(c.at("bler")),
                 "bler");
    expect_close(tables.tbler(1, table, mcs, to_db(sinr_eff), tb), number(c.at("tbler")), "tbler");
  });
}

TEST(sionna_phy, blocks_error_rates_and_decoded_bits) {
  for_each_case("phy", "cases", [](const json& c) {
    const int table = c.at("table"), mcs = c.at("mcs");
    const int64_t num_re = c.at("num_re");
    const Mcs scheme = mcs_table(table)[static_cast<size_t>(mcs)];
    const TransportBlock tb = transport_block(scheme, num_re * scheme.modulation_order);
    EXPECT_EQ(tb.size, c.at("tb_size").get<int64_t>());
    EXPECT_EQ(tb.code_block_size, c.at("cb_size").get<int64_t>());
    EXPECT_EQ(tb.num_code_blocks, c.at("num_cb").get<int64_t>());
    if (num_re == 0) return;
    const BlerTables& tables = BlerTables::get();
    const double sinr_db = to_db(c.at("sinr_eff"));
    expect_close(tables.bler(1, table, mcs, sinr_db, tb.code_block_size), number(c.at("bler")), "bler");
    const double tbler = tables.tbler(1, table, mcs, sinr_db, tb);
    expect_close(tbler, number(c.at("tbler")), "tbler");
    const int harq = c.at("uniform").get<double>() < tbler ? 0 : 1;
    EXPECT_EQ(harq, c.at("harq").get<int>());
    EXPECT_EQ(harq * tb.size, c.at("decoded_bits").get<int64_t>());
  });
}

TEST(sionna_illa, from_the_effective_sinr) {
  for_each_case("illa", "cases", [](const json& c) {
    EXPECT_EQ(inner_loop(c.at("table"), c.at("sinr_eff"), c.at("num_re"), c.at("bler_target")),
              c.at("mcs").get<int>());
  });
}

TEST(sionna_illa, from_a_grid) {
  for_each_case("illa", "grid_cases", [](const json& c) {
    EXPECT_EQ(inner_loop_grid(c.at("table"), flatten(c.at("sinr")), c.at("bler_target")),
              c.at("mcs").get<int>());
  });
}

// The slot's fast path in `sionna` mode: one resource element per "PRB", so that the block size is Sionna's.
TEST(sionna_illa, fast_path_from_a_grid) {
  std::map<int, LinkTables> tables;
  for_each_case("illa", "grid_cases", [&](const json& c) {
    const std::vector<float> sinr = flatten(c.at("sinr"));
    LinkTables::Options options;
    options.mode = LinkMode::kSionna;
    options.mcs_table = c.at("table");
    options.num_prb = 2048;
    options.re_per_prb = 1;
    ASSERT_LE(sinr.size(), 2048u);
    const LinkTables& link = tables.try_emplace(options.mcs_table, options).first->second;
    EXPECT_EQ(link.choose_mcs(sinr, 0, c.at("bler_target").get<float>()), c.at("mcs").get<int>());
  });
}

TEST(sionna_olla, runs) {
  for_each_case("olla", "runs", [](const json& run) {
    const size_t num_ut = run.at("num_ut");
    OuterLoopOptions options;
    options.bler_target = run.at("bler_target");
    options.delta_up_db = run.at("delta_up");
    options.offset_min_db = run.at("offset_min");
    options.offset_max_db = run.at("offset_max");
    expect_close(options.delta_down_db(), run.at("delta_down"), "delta_down");
    std::vector<OuterLoop> users(num_ut);
    for (OuterLoop& user : users) user.sinr_db_last = to_db(run.at("sinr_eff_init"));
    for (const json& slot : run.at("slots")) {
      for (size_t u = 0; u < num_ut; ++u) {
        users[u].feedback(slot.at("harq")[u], options);
        EXPECT_EQ(users[u].choose(run.at("table"), slot.at("sinr_eff")[u], slot.at("num_re")[u], options),
                  slot.at("mcs")[u].get<int>());
        // Offsets wander about zero: the absolute term is what Sionna's single-precision additions leave.
        expect_close(users[u].offset_db, slot.at("offset_db")[u], "offset_db", 1e-5);
        expect_close(users[u].sinr_db_last, slot.at("sinr_db_last")[u], "sinr_db_last", 1e-6);
      }
      ASSERT_FALSE(testing::Test::HasFailure()) << slot;
    }
  });
}

TEST(sionna_pf, runs) {
  for_each_case("pf", "runs", [](const json& run) {
    ProportionalFair scheduler;
    scheduler.beta = run.at("beta");
    for (const json& slot : run.at("slots")) {
      std::vector<int> user(run.at("num_freq_res").get<size_t>());
      scheduler.schedule(flatten(slot.at("rate_last")), flatten(slot.at("rate")), user);
      EXPECT_EQ(user, slot.at("ue").get<std::vector<int>>());
      for (size_t u = 0; u < scheduler.average.size(); ++u)
        expect_close(scheduler.average[u], slot.at("average")[u], "average");
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  });
}

TEST(sionna_pf, ties) {
  for (const Golden& golden : golden_files()) {
    const json& tie = golden.content.at("pf").at("tie");
    ProportionalFair scheduler;
    std::vector<int> user(tie.at("ue").size());
    scheduler.schedule(flatten(tie.at("rate_last")), flatten(tie.at("rate")), user);
    EXPECT_EQ(user, tie.at("ue").get<std::vector<int>>());
  }
}

TEST(sionna_power, matches_the_tight_solution) {
  for_each_case("power", "cases", [](const json& c) {
    FairPowerProblem problem;
    problem.pathloss = c.at("pathloss").get<std::vector<double>>();
    problem.interference_plus_noise_w = c.at("interference_plus_noise");
    problem.num_re = c.at("num_re").get<std::vector<double>>();
    problem.max_power_dbm = c.at("bs_max_power_dbm");
    problem.guaranteed_power_ratio = c.at("guaranteed_power_ratio");
    problem.fairness = c.at("fairness");
    const FairPower power = fair_power(problem);
    // A user at the water's edge has a power that is a difference of large numbers: judge it by the budget.
    const double budget_w = std::pow(10.0, problem.max_power_dbm / 10 - 3);
    for (size_t u = 0; u < problem.num_re.size(); ++u) {
      expect_close(power.tx_power_w[u], c.at("tx_power_w_tight")[u], "tx_power_w", 1e-9 * budget_w);
      expect_close(power.utility[u], c.at("utility_tight")[u], "utility", 1e-9);
    }
    // Sionna's tight solver accepts an optimality condition, q / mu - ..., of 1e-11: so much is open in 1 /
    // mu.
    const double largest_pathloss = *std::max_element(problem.pathloss.begin(), problem.pathloss.end());
    expect_close(power.mu_inv, number(c.at("mu_inv_tight")), "mu_inv",
                 1e-11 * largest_pathloss * problem.interference_plus_noise_w);
  });
}

TEST(sionna_cfr, matches_golden) {
  for_each_case("cfr", "cases", [](const json& c) {
    const auto frequencies = subcarrier_frequencies(c.at("num_subcarriers"), c.at("subcarrier_spacing"));
    const auto tau = c.at("tau").get<std::vector<double>>();
    const size_t num_times = c.at("h_re").size();
    std::vector<std::vector<std::complex<double>>> response(num_times);
    double energy = 0;
    for (size_t t = 0; t < num_times; ++t) {
      std::vector<std::complex<double>> a(tau.size());
      for (size_t p = 0; p < a.size(); ++p)
        a[p] = {c.at("a_re")[p][t].get<double>(), c.at("a_im")[p][t].get<double>()};
      response[t].resize(frequencies.size());
      frequency_response(a, tau, frequencies, response[t]);
      for (const auto& h : response[t]) energy += std::norm(h);
    }
    const double rms = std::sqrt(energy / static_cast<double>(num_times * frequencies.size()));
    const double scale = c.at("normalize").get<bool>() ? 1 / rms : 1;
    for (size_t k = 0; k < frequencies.size(); ++k)
      EXPECT_DOUBLE_EQ(frequencies[k], c.at("frequencies")[k].get<double>());
    for (size_t t = 0; t < num_times; ++t)
      for (size_t k = 0; k < frequencies.size(); ++k) {
        const std::complex<double> h = scale * response[t][k];
        // Paths cancel at some subcarriers: the error of a sum is relative to the link's strength.
        expect_close(h.real(), c.at("h_re")[t][k], "h_re", 1e-5 * scale * rms);
        expect_close(h.imag(), c.at("h_im")[t][k], "h_im", 1e-5 * scale * rms);
      }
  });
}

}  // namespace
}  // namespace trimtab::radio
