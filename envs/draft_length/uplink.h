// The radio uplink between an edge that drafts and a cloud that verifies: bits per ms, slot by slot, of every user of a channel trace
// (domain/radio). The user has `prbs` resource blocks; their SINRs give the modulation and coding of the highest rate within the block
// error target (EESM, TS 38.214 table 2), and what arrives is the transport block less its error rate.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"

namespace trimtab {

struct UplinkOptions {
  std::string trace;                 // file; empty: no uplink
  double tx_power_dbm = 23;          // of the user, on all its blocks together
  double noise_figure_db = 5;        // of the base station
  int64_t prbs = 4;                  // resource blocks of 12 subcarriers
  double least_kbps = 0;             // users of a lower mean rate are not served; 0: all must be reachable
  bool aware = true;                 // whether the controller sees the present rate; else the trace's mean
  double energy_price = 0;           // ms that a mJ is worth in the objective
  double draft_mj = 0, idle_w = 0;   // mJ of a draft pass; W while waiting for the cloud
  void describe(Fields& f);
};

class Uplink {
 public:
  // DataError naming the trace, for one that cannot be read, and for users whose rate is 0 from beginning to end.
  explicit Uplink(const UplinkOptions& options);

  int64_t links() const { return static_cast<int64_t>(rates_.size()); }   // users of all drops
  double slot_ms() const { return slot_ms_; }
  // ms until `bits` are sent when sending begins at `now`; the trace goes round.
  double send_ms(int64_t link, double now, double bits) const;
  // bits per ms, mean of the slots of the last `ms`: what the user can know.
  double rate_lately(int64_t link, double now, double ms) const;
  double mean_rate() const { return mean_rate_; }   // such that a bit takes its mean time over all users

 private:
  double slot_ms_ = 1, mean_rate_ = 0;
  std::vector<std::vector<float>> rates_;   // [link][slot] bits per ms
  std::vector<std::vector<double>> sums_;   // [link][slot + 1] of those before
};

}  // namespace trimtab
