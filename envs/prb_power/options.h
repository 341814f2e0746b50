// Options of the environment prb_power: one base station cell, its channel, traffic, link and rewards.
#pragma once

#include <string>

#include "core/options.h"
#include "domain/radio/trace.h"

namespace trimtab {

struct CellOptions {
  double tx_power_dbm = 46;            // budget of a slot over all PRBs
  double noise_figure_db = 9;
  double temperature_k = 294;
  double interference_load = 0.5;      // mean activity of further transmitters in the trace
  int64_t rbg_size = 1;                // PRBs per resource-block group: the unit a scheduler assigns
  int64_t max_users_per_slot = 0;      // 0: no limit
  double fairness_exponent = 1;        // of the fair shares the PRB agent starts from; 1: proportional fair, less: more throughput
  double levelling = 0.7;              // of a user's watts over its PRBs, by the learned power agent and *_prior_power
  double probe_db = 1.2;               // by how much a report at the highest CQI understates, for the same two
  int64_t num_users = 0;               // 0: all users of the trace; else that many of them, drawn per episode
  void describe(Fields& f);
};

struct CsiOptions {
  int64_t delay_slots = 0;             // age of a report when it is used; 0: fresh
  int64_t period_slots = 1;            // slots between reports
  std::string quantise = "none";       // none, cqi
  int64_t subband_prbs = 1;            // PRBs that share one CQI
  void describe(Fields& f);
};

struct TrafficOptions {
  std::string type = "full_buffer";    // full_buffer, poisson, bursty, constant
  double rate_mbps = 4;                // offered per user
  double packet_bytes = 1500;
  double burst_on_slots = 40, burst_off_slots = 160;   // mean lengths of on and off periods
  void describe(Fields& f);
};

struct LinkOptions {
  std::string mode = "spec";           // spec, sionna
  int64_t mcs_table = 1;
  int64_t re_per_prb = 144;            // 12 data symbols of 12 subcarriers
  double bler_target = 0.1;
  double olla_delta_up_db = 1.0;
  double olla_limit_db = 20;
  void describe(Fields& f);
};

struct HarqOptions {
  bool enabled = true;
  int64_t processes = 16;
  int64_t max_transmissions = 4;
  int64_t k1_slots = 4;                // from transmission to feedback
  std::string combining = "chase";     // chase, ir
  void describe(Fields& f);
};

struct CellRewardOptions {
  std::string form = "smoothed";       // smoothed: levels; marginal: what this slot adds to them
  double throughput = 1.0;             // weight of smoothed cell throughput over the band's ceiling
  double fairness = 0.5;               // weight of Jain's index of smoothed user throughputs
  double energy = 0.0;                 // weight of the share of the power budget spent, subtracted
  double smoothing = 0.98;             // of the throughputs in the reward
  void describe(Fields& f);
};

struct PrbPowerOptions {
  CellOptions cell;
  CsiOptions csi;
  TrafficOptions traffic;
  LinkOptions link;
  HarqOptions harq;
  CellRewardOptions reward;
  std::string prb = "learned";         // learned, or a PRB baseline: who assigns PRBs
  std::string power = "learned";       // learned, or a power baseline: who splits the budget
  std::string resolver = "fast";       // fast, exact
  double pf_beta = 0.98;               // smoothing of the averages every fair scheduler sees
  int64_t episode_slots = 200;
  int64_t control_period_slots = 1;    // slots per step: decisions are held in between
  std::string data = "traces";         // traces, synthetic
  radio::TraceOptions trace;
  radio::SyntheticOptions synthetic;
  void describe(Fields& f);
  void validate() const;
};

}  // namespace trimtab
