// Inner and outer loop link adaptation, as Sionna SYS 2.2.0's InnerLoopLinkAdaptation and
// OuterLoopLinkAdaptation.
//
// The outer loop follows Pedersen et al., "Frequency domain scheduling for OFDMA with limited and noisy
// channel feedback": a failed block moves the offset up by delta_up, a received one moves it down by delta_up
// p / (1 - p), so that the offset rests where the error rate is the target p.
#include <algorithm>
#include <cmath>

#include "domain/radio/link.h"

namespace trimtab::radio {
namespace {

constexpr int kPdsch = 1;

double tbler_of(int table, int mcs, double sinr_eff, int64_t num_re) {
  const Mcs scheme = mcs_table(table)[mcs];
  const TransportBlock tb = transport_block(scheme, num_re * scheme.modulation_order);
  return BlerTables::get().tbler(kPdsch, table, mcs, 10 * std::log10(sinr_eff), tb);
}

// sinr_of(mcs) is the effective SINR if that MCS is used. Rates are single precision: so is the target they
// meet.
template <class SinrOf>
int highest_mcs(int table, int64_t num_re, double bler_target, SinrOf sinr_of) {
  if (num_re <= 0) return 0;
  const float target = static_cast<float>(bler_target);
  const int lowest = BlerTables::get().min_mcs(kPdsch, table);
  for (int mcs = static_cast<int>(mcs_table(table).size()) - 1; mcs > lowest; --mcs)
    if (tbler_of(table, mcs, sinr_of(mcs), num_re) <= target) return mcs;
  return lowest;
}

}  // namespace

int inner_loop(int table, double sinr_eff, int64_t num_re, double bler_target) {
  return highest_mcs(table, num_re, bler_target, [&](int) { return sinr_eff; });
}

int inner_loop_grid(int table, std::span<const float> sinr, double bler_target) {
  const int64_t num_re = std::count_if(sinr.begin(), sinr.end(), [](float s) { return s > 0; });
  return highest_mcs(table, num_re, bler_target, [&](int mcs) { return eesm(sinr, eesm_beta(table, mcs)); });
}

void OuterLoop::feedback(int harq, const OuterLoopOptions& options) {
  if (harq == 1) offset_db -= options.delta_down_db();
  if (harq == 0) offset_db += options.delta_up_db;
  offset_db = std::clamp(offset_db, options.offset_min_db, options.offset_max_db);
}

int OuterLoop::choose(int table, double sinr_eff, int64_t num_re, const OuterLoopOptions& options) {
  if (sinr_eff > 0) sinr_db_last = 10 * std::log10(sinr_eff);
  return inner_loop(table, std::pow(10.0, (sinr_db_last - offset_db) / 10), num_re, options.bler_target);
}

}  // namespace trimtab::radio
