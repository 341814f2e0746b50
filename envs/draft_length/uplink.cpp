#include "envs/draft_length/uplink.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "domain/radio/link.h"
#include "domain/radio/trace.h"

namespace trimtab {
namespace {

constexpr double kBoltzmannDbm = -174;   // thermal noise at 290 K, dBm per Hz
constexpr double kLeastRate = 0.01;      // bits per ms: a user below it is out of reach

// Bits per ms of one user in one slot.
class SlotRate {
 public:
  SlotRate(const UplinkOptions& o, const radio::TraceInfo& trace)
      : tables_({.mcs_table = 2, .num_prb = static_cast<int>(o.prbs)}), slot_ms_(trace.slot_duration * 1e3), sinr_(o.prbs) {
    const double width_hz = 12 * trace.subcarrier_spacing;
    const double noise_dbm = kBoltzmannDbm + 10 * std::log10(width_hz) + o.noise_figure_db;
    sinr_per_gain_ = std::pow(10, (o.tx_power_dbm - 10 * std::log10(static_cast<double>(o.prbs)) - noise_dbm) / 10);
  }
  double operator()(const float* gain) {   // [prbs]
    for (size_t f = 0; f < sinr_.size(); ++f) sinr_[f] = static_cast<float>(gain[f] * sinr_per_gain_);
    const int mcs = tables_.choose_mcs(sinr_, 0, tables_.options().bler_target), prbs = static_cast<int>(sinr_.size());
    return tables_.tb_size(mcs, prbs) * (1.0 - tables_.tbler(mcs, prbs, tables_.effective_sinr_db(sinr_, mcs))) / slot_ms_;
  }

 private:
  radio::LinkTables tables_;
  double slot_ms_, sinr_per_gain_ = 1;
  std::vector<float> sinr_;
};

}  // namespace

void UplinkOptions::describe(Fields& f) {
  f.text("trace", trace, {.doc = "channel trace of the uplink (docs/traces.md); empty: drafts and target are at one place"});
  f.number("tx_power_dbm", tx_power_dbm, {.low = -50, .high = 60, .unit = "dBm", .doc = "of the user"});
  f.number("noise_figure_db", noise_figure_db, {.low = 0, .high = 30, .unit = "dB", .doc = "of the base station"});
  f.integer("prbs", prbs, {.low = 1, .high = 273, .doc = "resource blocks of the user"});
  f.number("least_kbps", least_kbps, {.low = 0, .high = 1e6, .unit = "kbit/s", .doc = "users of a lower mean rate are not served; 0: all must be reachable"});
  f.flag("aware", aware, "the controller sees the present rate; else the mean of the trace");
  f.number("energy_price", energy_price, {.low = 0, .high = 1e6, .unit = "ms/mJ", .doc = "what energy is worth in the objective"});
  f.number("draft_mj", draft_mj, {.low = 0, .high = 1e6, .unit = "mJ", .doc = "energy of a draft pass"});
  f.number("idle_w", idle_w, {.low = 0, .high = 1e3, .unit = "W", .doc = "power of the edge while it waits"});
}

Uplink::Uplink(const UplinkOptions& o) {
  const auto trace = radio::open_trace(o.trace);
  const radio::TraceInfo& info = trace->info();
  if (o.prbs > info.num_prb) throw ConfigError(fmt::format("uplink.prbs = {}, but {} has {} resource blocks", o.prbs, o.trace, info.num_prb));
  slot_ms_ = info.slot_duration * 1e3;
  SlotRate rate(o, info);
  double ms_per_bit = 0;
  for (int64_t d = 0; d < info.num_drops; ++d) {
    const auto drop = trace->drop(d);
    for (int64_t u = 0; u < drop->num_users; ++u) {
      std::vector<float> slots;
      std::vector<double> sums = {0};
      for (int64_t t = 0; t < drop->num_slots; ++t) {
        slots.push_back(static_cast<float>(rate(drop->at(0, t) + u * drop->num_prb)));
        sums.push_back(sums.back() + slots.back());
      }
      const double mean = sums.back() / static_cast<double>(drop->num_slots);
      if (mean < o.least_kbps) continue;   // kbit/s are bits per ms
      if (mean < kLeastRate)
        throw DataError(fmt::format("{}: user {} of drop {} is out of reach, with less than {} bits per ms over its {} slots: its drafts would never arrive; raise "
                                    "uplink.tx_power_dbm, leave such users out with uplink.least_kbps, or take another trace",
                                    o.trace, u, d, kLeastRate, drop->num_slots));
      ms_per_bit += 1 / mean;
      rates_.push_back(std::move(slots)), sums_.push_back(std::move(sums));
    }
  }
  if (rates_.empty()) throw DataError(fmt::format("{}: no user reaches uplink.least_kbps = {}: lower it, or raise uplink.tx_power_dbm", o.trace, o.least_kbps));
  mean_rate_ = static_cast<double>(rates_.size()) / ms_per_bit;
}

double Uplink::send_ms(int64_t link, double now, double bits) const {
  const std::vector<float>& slots = rates_[link];
  double at = now;
  for (int64_t slot = static_cast<int64_t>(now / slot_ms_);; ++slot) {
    const double end = static_cast<double>(slot + 1) * slot_ms_, rate = slots[slot % static_cast<int64_t>(slots.size())];
    if (rate * (end - at) >= bits) return at + bits / rate - now;
    bits -= rate * (end - at), at = end;
  }
}

double Uplink::rate_lately(int64_t link, double now, double ms) const {
  const std::vector<double>& sums = sums_[link];
  const int64_t size = static_cast<int64_t>(rates_[link].size()), last = static_cast<int64_t>(now / slot_ms_) % size;
  const int64_t seen = std::clamp<int64_t>(static_cast<int64_t>(ms / slot_ms_), 1, size), before = last + 1 - seen;
  const double sum = before >= 0 ? sums[last + 1] - sums[before] : sums[last + 1] + sums[size] - sums[before + size];
  return std::max(sum / static_cast<double>(seen), 1e-3 * mean_rate_);   // in a gap: very little
}

}  // namespace trimtab
