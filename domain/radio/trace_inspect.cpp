// `trimtab inspect` for traces: every value is read once, and what the gains look like is summed up in a few
// figures.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/files.h"
#include "domain/radio/trace_format.h"
#include "domain/radio/trace_gains.h"
#include "domain/radio/trace_untrusted.h"

namespace trimtab::radio {
namespace {

// Gains in steps of 0.1 dB, so that percentiles need no copy of the data.
class DecibelHistogram {
 public:
  void add(float gain) {
    const double db = 10 * std::log10(static_cast<double>(gain));
    const auto bin = static_cast<int64_t>((db - kLowest) * kPerDb);
    ++counts_[static_cast<size_t>(std::clamp<int64_t>(bin, 0, kBins - 1))];
    ++total_;
  }
  nlohmann::json percentile(double share) const {
    if (total_ == 0) return nullptr;
    auto left = static_cast<int64_t>(std::ceil(share * static_cast<double>(total_)));
    size_t bin = 0;
    while (bin + 1 < kBins && (left -= counts_[bin]) > 0) ++bin;
    return std::round((kLowest + (static_cast<double>(bin) + 0.5) / kPerDb) * 10) / 10;
  }
  nlohmann::json to_json() const {
    return {{"p5", percentile(0.05)}, {"p50", percentile(0.5)}, {"p95", percentile(0.95)}};
  }

 private:
  static constexpr double kLowest = -300, kPerDb = 10;
  static constexpr int64_t kBins = 3600;
  std::vector<int64_t> counts_ = std::vector<int64_t>(kBins);
  int64_t total_ = 0;
};

// Autocorrelation of the gain of a PRB over time at lags 1, 2, 4, ..., averaged (by variance) over PRBs and
// drops.
class Decorrelation {
 public:
  void add(const DropGains& drop, int64_t user) {
    std::vector<double> x(static_cast<size_t>(drop.num_slots));
    for (int64_t prb = 0; prb < drop.num_prb; ++prb) {
      double mean = 0;
      for (int64_t slot = 0; slot < drop.num_slots; ++slot) {
        x[static_cast<size_t>(slot)] = drop.at(0, slot)[user * drop.num_prb + prb];
        mean += x[static_cast<size_t>(slot)] / static_cast<double>(drop.num_slots);
      }
      for (double& value : x) value -= mean;
      if (mean > 0) accumulate(x, mean);
    }
  }
  // The lag, in slots, at which the correlation passes one half; null when it never does.
  nlohmann::json half_slots() const {
    double before = 1, lag_before = 0;
    for (size_t k = 0; k < kLags; ++k) {
      if (weight_[k] <= 0) break;
      const double lag = std::ldexp(1.0, static_cast<int>(k)), rho = sum_[k] / weight_[k];
      if (rho < 0.5)
        return std::round(10 * (lag_before + (before - 0.5) / (before - rho) * (lag - lag_before))) / 10;
      before = rho;
      lag_before = lag;
    }
    return nullptr;
  }

 private:
  static constexpr size_t kLags = 14;
  void accumulate(const std::vector<double>& x, double mean) {
    for (size_t k = 0; k < kLags; ++k) {
      const size_t lag = size_t{1} << k;
      if (2 * lag > x.size()) return;  // too few independent pairs to tell
      double product = 0, energy = 0;
      for (size_t i = 0; i + lag < x.size(); ++i) {
        product += x[i] * x[i + lag];
        energy += 0.5 * (x[i] * x[i] + x[i + lag] * x[i + lag]);
      }
      sum_[k] += product / (mean * mean);
      weight_[k] += energy / (mean * mean);
    }
  }
  std::array<double, kLags> sum_{}, weight_{};
};

struct UserSanity {
  DecibelHistogram gain;
  Decorrelation decorrelation;
  int64_t links = 0, zero_links = 0;  // a link: one user and station in one slot
};

struct Sanity {
  explicit Sanity(int64_t num_users) : users(static_cast<size_t>(num_users)) {}
  std::vector<UserSanity> users;
  DecibelHistogram gain, interference;

  void add(const DropGains& drop) {
    for (int64_t tx = 0; tx < drop.num_tx; ++tx) {
      for (int64_t slot = 0; slot < drop.num_slots; ++slot) add_slot(drop, tx, slot);
    }
    for (int64_t user = 0; user < drop.num_users; ++user)
      users[static_cast<size_t>(user)].decorrelation.add(drop, user);
  }

  nlohmann::json to_json() const {
    nlohmann::json list = nlohmann::json::array();
    int64_t links = 0, zero_links = 0;
    for (const UserSanity& user : users) {
      links += user.links;
      zero_links += user.zero_links;
      list.push_back({{"gain_db", user.gain.to_json()},
                      {"zero_links", static_cast<double>(user.zero_links) / static_cast<double>(user.links)},
                      {"decorrelation_slots", user.decorrelation.half_slots()}});
    }
    return {{"gain_db", gain.to_json()},
            {"interference_gain_db", interference.to_json()},
            {"zero_links", static_cast<double>(zero_links) / static_cast<double>(links)},
            {"users", list}};
  }

 private:
  void add_slot(const DropGains& drop, int64_t tx, int64_t slot) {
    for (int64_t u = 0; u < drop.num_users; ++u) {
      UserSanity& user = users[static_cast<size_t>(u)];
      const float* row = drop.at(tx, slot) + u * drop.num_prb;
      bool zero = true;
      for (int64_t prb = 0; prb < drop.num_prb; ++prb) {
        if (row[prb] <= 0) continue;
        zero = false;
        if (tx == 0) user.gain.add(row[prb]);
        (tx == 0 ? gain : interference).add(row[prb]);
      }
      ++user.links;
      user.zero_links += zero;
    }
  }
};

}  // namespace

TraceInfo inspect_trace(const std::filesystem::path& file, const TraceOptions& options,
                        nlohmann::json* sanity) {
  if (options.untrusted) parse_in_child(file, options);
  OpenTrace trace(file, options);
  TraceInfo& info = trace.format.info;
  info.hash = hash_file(file);
  Sanity figures(info.num_users);
  for (int64_t drop = 0; drop < info.num_drops; ++drop) figures.add(convert_drop(trace, drop));
  if (sanity != nullptr) *sanity = figures.to_json();
  return info;
}

}  // namespace trimtab::radio
