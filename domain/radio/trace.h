// Channel traces in the Sionna HDF5 layout (docs/traces.md), read without loading more than is asked for.
//
// A trace is a number of independent drops; a drop is a contiguous run of slots for one set of users.
// Episodes never cross a drop. What the environment needs of a drop is the power gain of every link on every
// physical resource block (PRB).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/options.h"

namespace trimtab::radio {

// Values that a file's attributes give and a configuration may give instead (or must, for a file without
// attributes). A field left at its default (0 or "") is taken from the file; if the file has none either, the
// file is refused.
struct TraceOptions {
  double carrier_frequency = 0;   // Hz
  double subcarrier_spacing = 0;  // Hz
  int64_t num_prb = 0;            // physical resource blocks of 12 subcarriers
  double slot_duration = 0;       // s
  double sampling_frequency = 0;  // Hz, of the time axis T
  std::string axis0;              // "slot" or "episode"
  std::string freq_granularity;   // of h_freq: "subcarrier" or "prb"
  int64_t slots_per_drop = 0;     // files whose axis 0 is slots: several drops one after the other
  int64_t serving = 0;            // index on the tx axis of the serving base station; others interfere
  std::string precoder = "mrt";  // at the base station: "mrt" (wideband, per link), "first", "dft", "average"
  bool untrusted = false;        // parse in a child process with bounded memory and time first
  void describe(Fields& f);
  void validate() const;
};

// What is in a file, for `trimtab inspect`, manifests and mismatch messages.
struct TraceInfo {
  std::filesystem::path file;
  std::string hash;            // XXH3 of the file
  std::string layout;          // "a+tau" or "h_freq"
  std::string encoding;        // "compound {r,i} float32", "paired _re/_im", ...
  std::vector<int64_t> shape;  // of a or h_freq
  std::string axis0;           // "slot" or "episode"
  int64_t num_drops = 0;
  int64_t slots_per_drop = 0;  // of the shortest drop, where a file marks drops of unequal length
  int64_t num_users = 0, num_tx = 0, rx_antennas = 0, tx_antennas = 0, num_paths = 0;
  int64_t samples_per_slot = 1;
  int64_t num_prb = 0;
  double carrier_frequency = 0, subcarrier_spacing = 0, slot_duration = 0, sampling_frequency = 0;
  std::string generator, scene;
  std::optional<int64_t> seed;
  nlohmann::json to_json() const;
};

// Gains of one drop. Linear power gain (path loss and fading, antennas combined): the mean of |h|^2 over the
// PRB's twelve subcarriers (or its one value with freq_granularity "prb") and over the samples of the slot.
// The serving link sums over the user's antennas (maximum-ratio combining) behind the base station's
// precoder; an interfering link is the mean over all antenna pairs, since neither end matches it.
// docs/traces.md gives the formulas.
struct DropGains {
  int64_t num_slots = 0, num_users = 0, num_tx = 0, num_prb = 0;
  std::vector<float> gain;  // [num_tx, num_slots, num_users, num_prb]; the serving station is tx 0
  const float* at(int64_t tx, int64_t slot) const {
    return gain.data() + ((tx * num_slots + slot) * num_users) * num_prb;
  }
};

class TraceSource {  // thread-safe after construction
 public:
  virtual ~TraceSource() = default;
  virtual const TraceInfo& info() const = 0;
  // Drop in [0, info().num_drops); a synthetic source has 2^31 - 1 of them. The result is cached up to a
  // memory bound (TRIMTAB_TRACE_CACHE_MIB, 1024 by default, for all sources together).
  virtual std::shared_ptr<const DropGains> drop(int64_t index) const = 0;
};

// Opens an HDF5 trace and checks everything that can be checked without reading the bulk; DataError names
// file, dataset, cure.
std::shared_ptr<TraceSource> open_trace(const std::filesystem::path& file, const TraceOptions& options = {});
// Reads everything once and refuses NaN or infinity, too: what `trimtab inspect` does. Throws DataError.
// `sanity` receives gain percentiles (dB), shares of all-zero links and decorrelation times, over all and per
// user.
TraceInfo inspect_trace(const std::filesystem::path& file, const TraceOptions& options,
                        nlohmann::json* sanity = nullptr);
// Per-PRB gains of an HDF5 drop for chosen slots only (tests compare with expected.json).
DropGains read_gains(const std::filesystem::path& file, const TraceOptions& options, int64_t drop,
                     std::span<const int64_t> slots);

// Built-in source: TDL-A..E or CDL-style fading with 3GPP 38.901 UMi/UMa/RMa path loss; see synthetic.cpp.
struct SyntheticOptions {
  std::string profile = "tdl_a";  // tdl_a .. tdl_e, cdl_a .. cdl_e
  std::string scenario = "umi";   // umi, uma, rma: path loss and shadowing
  double delay_spread_ns = 100;
  int64_t num_users = 10, num_prb = 51, slots = 1000;
  double carrier_frequency = 3.5e9, subcarrier_spacing = 30e3;
  double min_speed = 1, max_speed = 15;          // m/s
  double min_distance = 10, max_distance = 200;  // m
  int64_t seed = 1;
  void describe(Fields& f);
  void validate() const;
};
std::shared_ptr<TraceSource> synthetic_trace(const SyntheticOptions& options);

}  // namespace trimtab::radio
