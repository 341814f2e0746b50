// LinkTables: transport block sizes and block error rates of one cell configuration, tabulated for the slot's
// fast path.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "domain/radio/link.h"
#include "domain/radio/link_tables_simd.h"

namespace trimtab::radio {
namespace {

constexpr int kPdsch = 1;
constexpr int kReCapPerPrb = 156;  // TS 38.214 5.1.3.2
// The largest simulated code block has 2000 bits; on the size grid everything from here on reads that curve.
constexpr int kLastDistinctSize = 20;

}  // namespace

LinkTables::LinkTables(const Options& options) : options_(options) {
  if (options.mcs_table < 1 || options.mcs_table > 3)
    throw ConfigError(fmt::format("mcs_table is {}: the link level is calibrated for tables 1, 2 and 3",
                                  options.mcs_table));
  if (options.num_prb < 1 || options.re_per_prb < 1)
    throw ConfigError(fmt::format("num_prb is {} and re_per_prb {}: both must be at least 1", options.num_prb,
                                  options.re_per_prb));
  const auto schemes = mcs_table(options.mcs_table);
  mcs_.assign(schemes.begin(), schemes.end());
  num_mcs_ = static_cast<int>(mcs_.size());
  min_mcs_ = BlerTables::get().min_mcs(kPdsch, options.mcs_table);
  for (int m = 0; m < num_mcs_; ++m) {
    beta_.push_back(static_cast<float>(eesm_beta(options.mcs_table, m)));
    inverse_beta_.push_back(1.0f / beta_.back());
  }
  const size_t cells = static_cast<size_t>(num_mcs_) * (options.num_prb + 1);
  tb_size_.resize(cells);
  row_.resize(cells);
  num_code_blocks_.resize(cells);
  size_index_.resize(cells);
  first_met_.assign(cells, kGrid);
  tbler_.assign(kGrid, 1.0f);  // row 0: no table, every block fails
  for (int m = 0; m < num_mcs_; ++m) add_rows(m);
}

void LinkTables::add_rows(int mcs) {
  const BlerTables& tables = BlerTables::get();
  const bool known = tables.has(kPdsch, options_.mcs_table, mcs);
  const int re_per_prb =
      options_.mode == LinkMode::kSpec ? std::min(options_.re_per_prb, kReCapPerPrb) : options_.re_per_prb;
  std::map<std::pair<int, int64_t>, int32_t> rows;  // (size index, code blocks) -> row
  for (int prbs = 0; prbs <= options_.num_prb; ++prbs) {
    const size_t cell = static_cast<size_t>(mcs) * (options_.num_prb + 1) + prbs;
    const TransportBlock tb =
        transport_block(mcs_[mcs], int64_t{prbs} * re_per_prb * mcs_[mcs].modulation_order);
    tb_size_[cell] = prbs == 0 ? 0 : static_cast<int32_t>(tb.size);
    num_code_blocks_[cell] = static_cast<int32_t>(tb.num_code_blocks);
    size_index_[cell] =
        static_cast<int16_t>(std::min(BlerTables::size_index(tb.code_block_size), kLastDistinctSize));
    if (!known) continue;
    const auto [entry, added] = rows.try_emplace({size_index_[cell], tb.num_code_blocks},
                                                 static_cast<int32_t>(tbler_.size() / kGrid));
    if (added)
      for (int i = 0; i < kGrid; ++i)
        tbler_.push_back(1.0f -
                         std::pow(1.0f - tables.at(kPdsch, options_.mcs_table, mcs, i, size_index_[cell]),
                                  static_cast<float>(tb.num_code_blocks)));
    row_[cell] = entry->second;
    const float* row = tbler_row(mcs, prbs);
    first_met_[static_cast<size_t>(prbs) * num_mcs_ + mcs] = static_cast<int16_t>(
        std::find_if(row, row + kGrid, [&](float p) { return p <= options_.bler_target; }) - row);
  }
}

float LinkTables::tbler_combined(int mcs, int prbs, int equivalent, float sinr_eff_db) const {
  const size_t cell = static_cast<size_t>(mcs) * (options_.num_prb + 1) + prbs;
  const float bler = BlerTables::get().at(kPdsch, options_.mcs_table, equivalent, grid_index(sinr_eff_db),
                                          size_index_[cell]);
  if (std::isinf(bler)) return 1;
  return 1.0f - std::pow(1.0f - bler, static_cast<float>(num_code_blocks_[cell]));
}

float LinkTables::threshold_db(int mcs, int prbs, float target) const {
  const float* row = tbler_row(mcs, prbs);
  int index = kGrid;
  while (index > 0 && row[index - 1] <= target) --index;
  return index == kGrid ? std::numeric_limits<float>::infinity() : -5.0f + 0.1f * static_cast<float>(index);
}

int LinkTables::choose_mcs(std::span<const float> sinr, float offset_db, float target) const {
  const std::array<int32_t, 2> begin{0, static_cast<int32_t>(sinr.size())};
  int32_t mcs = 0;
  choose_mcs(sinr, begin, std::span(&offset_db, 1), target, std::span(&mcs, 1));
  return mcs;
}

McsSearch LinkTables::search(float target) const {
  McsSearch search;
  search.beta = beta_.data();
  search.inverse_beta = inverse_beta_.data();
  search.tbler = tbler_.data();
  search.row = row_.data();
  search.first_met = target == options_.bler_target ? first_met_.data() : nullptr;
  search.num_prb = options_.num_prb;
  search.num_mcs = num_mcs_;
  search.min_mcs = min_mcs_;
  search.grid = kGrid;
  search.skip_zeros = options_.mode == LinkMode::kSionna;
  return search;
}

void LinkTables::choose_mcs(std::span<const float> sinr, std::span<const int32_t> begin,
                            std::span<const float> offset_db, float target, std::span<int32_t> mcs) const {
  check_slot(sinr, begin, mcs.size());
  TT_CHECK_EQ(offset_db.size(), mcs.size());
  search_mcs(search(target), {sinr.data(), begin.data(), mcs.size()}, offset_db.data(), target, mcs.data());
}

float LinkTables::effective_sinr_db(std::span<const float> sinr, int mcs) const {
  const std::array<int32_t, 2> begin{0, static_cast<int32_t>(sinr.size())};
  const int32_t index = mcs;
  float sinr_eff_db = 0;
  effective_sinr_db(sinr, begin, std::span(&index, 1), std::span(&sinr_eff_db, 1));
  return sinr_eff_db;
}

void LinkTables::effective_sinr_db(std::span<const float> sinr, std::span<const int32_t> begin,
                                   std::span<const int32_t> mcs, std::span<float> sinr_eff_db) const {
  check_slot(sinr, begin, mcs.size());
  TT_CHECK_EQ(sinr_eff_db.size(), mcs.size());
  slot_effective_sinr_db(search(options_.bler_target), {sinr.data(), begin.data(), mcs.size()}, mcs.data(),
                         sinr_eff_db.data());
}

void LinkTables::check_slot(std::span<const float> sinr, std::span<const int32_t> begin,
                            size_t num_users) const {
  TT_CHECK_EQ(begin.size(), num_users + 1);
  TT_CHECK_LE(static_cast<size_t>(begin[num_users]), sinr.size());
  for (size_t u = 0; u < num_users; ++u) {
    TT_CHECK_LE(begin[u], begin[u + 1]);
    TT_CHECK_LE(begin[u + 1] - begin[u], options_.num_prb);
  }
}

int LinkTables::equivalent_mcs(int mcs, double info_bits, double coded_bits) const {
  const double rate1024 = 1024.0 * info_bits / coded_bits;
  int best = mcs;
  for (int m = mcs - 1; m >= min_mcs_ && mcs_[m].modulation_order == mcs_[mcs].modulation_order; --m) {
    if (mcs_[m].rate1024 < rate1024) break;
    best = m;
  }
  return best;
}

}  // namespace trimtab::radio
