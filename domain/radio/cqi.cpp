// Channel quality indicator: TS 38.214 tables 5.2.2.1-2 (up to 64QAM) and 5.2.2.1-3 (up to 256QAM).
//
// A CQI is met where a large block (more than 2000 bits per code block) of its modulation and code rate fails
// at most once in ten, by the BLER tables. The lowest rates have no BLER curve: they keep the distance to
// Shannon's limit, in dB, of the lowest rate that has one.
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {
namespace {

constexpr int kPdsch = 1, kNumCqi = 16;
constexpr float kCqiBler = 0.1f;  // TS 38.214 5.2.2.1
using CqiTable = std::array<Mcs, kNumCqi>;
using Thresholds = std::array<double, kNumCqi>;

constexpr CqiTable kTable1{{{0, 0},
                            {2, 78},
                            {2, 120},
                            {2, 193},
                            {2, 308},
                            {2, 449},
                            {2, 602},
                            {4, 378},
                            {4, 490},
                            {4, 616},
                            {6, 466},
                            {6, 567},
                            {6, 666},
                            {6, 772},
                            {6, 873},
                            {6, 948}}};
constexpr CqiTable kTable2{{{0, 0},
                            {2, 78},
                            {2, 193},
                            {2, 449},
                            {4, 378},
                            {4, 490},
                            {4, 616},
                            {6, 466},
                            {6, 567},
                            {6, 666},
                            {6, 772},
                            {6, 873},
                            {8, 711},
                            {8, 797},
                            {8, 885},
                            {8, 948}}};

double shannon_db(const Mcs& mcs) { return 10 * std::log10(std::exp2(mcs.spectral_efficiency()) - 1); }

// SINR from which the curve of this modulation and rate stays at or below 10 %, if MCS table `table` has the
// curve.
std::optional<double> simulated_db(int table, const Mcs& wanted) {
  const BlerTables& tables = BlerTables::get();
  const auto schemes = mcs_table(table);
  for (int m = 0; m < static_cast<int>(schemes.size()); ++m) {
    if (schemes[m].modulation_order != wanted.modulation_order || schemes[m].rate1024 != wanted.rate1024)
      continue;
    if (!tables.has(kPdsch, table, m)) continue;
    int index = BlerTables::kSinrGrid;
    while (index > 0 && tables.at(kPdsch, table, m, index - 1, BlerTables::kSizeGrid - 1) <= kCqiBler)
      --index;
    return -5.0 + 0.1 * index;
  }
  return std::nullopt;
}

// MCS table 1 goes with CQI table 1, 2 with 2.
Thresholds thresholds(const CqiTable& cqis, int table) {
  Thresholds result{};
  double gap_db = 0;
  for (int cqi = kNumCqi - 1; cqi >= 1; --cqi) {
    if (const auto simulated = simulated_db(table, cqis[cqi])) gap_db = *simulated - shannon_db(cqis[cqi]);
    result[cqi] = shannon_db(cqis[cqi]) + gap_db;
  }
  result[0] = -std::numeric_limits<double>::infinity();
  return result;
}

const Thresholds& thresholds_of(int cqi_table) {
  static const Thresholds first = thresholds(kTable1, 1), second = thresholds(kTable2, 2);
  if (cqi_table != 1 && cqi_table != 2)
    throw ConfigError(
        fmt::format("CQI table {} does not exist: choose 1 (up to 64QAM) or 2 (up to 256QAM)", cqi_table));
  return cqi_table == 1 ? first : second;
}

}  // namespace

int cqi_from_sinr_db(int cqi_table, double sinr_db) {
  const Thresholds& met = thresholds_of(cqi_table);
  int cqi = kNumCqi - 1;
  while (cqi > 0 && !(sinr_db >= met[cqi])) --cqi;
  return cqi;
}

double sinr_db_of_cqi(int cqi_table, int cqi) {
  TT_CHECK(cqi >= 0 && cqi < kNumCqi, "CQI {}", cqi);
  return thresholds_of(cqi_table)[cqi];
}

}  // namespace trimtab::radio
