#include "envs/prb_power/options.h"

#include "core/error.h"
#include "envs/prb_power/baselines.h"

namespace trimtab {

void CellOptions::describe(Fields& f) {
  f.number("tx_power_dbm", tx_power_dbm, {.low = -30, .high = 80, .unit = "dBm", .doc = "power budget of a slot over all PRBs"});
  f.number("noise_figure_db", noise_figure_db, {.low = 0, .high = 30, .unit = "dB", .doc = "receiver noise figure"});
  f.number("temperature_k", temperature_k, {.low = 1, .high = 1000, .unit = "K", .doc = "noise temperature"});
  f.number("interference_load", interference_load, {.low = 0, .high = 1, .doc = "mean activity of further transmitters in the trace, each at equal power"});
  f.integer("rbg_size", rbg_size, {.low = 1, .high = 16, .unit = "PRBs", .doc = "resource-block group: the unit a scheduler assigns"});
  f.number("fairness_exponent", fairness_exponent, {.low = 0, .high = 10, .doc = "of the fair shares (log_pf_share) the PRB agent starts from; 1 is proportional fair, less gives more throughput"});
  f.number("levelling", levelling, {.low = 0, .high = 1, .doc = "a user's watts over its PRBs go by gain^-(levelling x reliability): the learned power agent's and *_prior_power's"});
  f.number("probe_db", probe_db, {.low = 0, .high = 10, .unit = "dB", .doc = "how much better than reported a channel at the highest CQI is taken to be, where the power agent starts from, and in *_prior_power"});
  f.integer("max_users_per_slot", max_users_per_slot, {.low = 0, .high = 256, .unit = "users", .doc = "most users served in one slot; 0: no limit"});
  f.integer("num_users", num_users, {.low = 0, .high = 256, .unit = "users", .doc = "users drawn from the trace per episode; 0: all"});
}

void CsiOptions::describe(Fields& f) {
  f.integer("delay_slots", delay_slots, {.low = 0, .high = 200, .unit = "slots", .doc = "age of a channel report when it is used; 0: fresh"});
  f.integer("period_slots", period_slots, {.low = 1, .high = 200, .unit = "slots", .doc = "slots between reports"});
  f.choice("quantise", quantise, {"none", "cqi"}, "how reports are quantised: not at all, or as 4-bit CQI per subband");
  f.integer("subband_prbs", subband_prbs, {.low = 1, .high = 64, .unit = "PRBs", .doc = "PRBs that share one CQI"});
}

void TrafficOptions::describe(Fields& f) {
  f.choice("type", type, {"full_buffer", "poisson", "bursty", "constant"}, "arrivals of each user");
  f.number("rate_mbps", rate_mbps, {.low = 0, .high = 10000, .unit = "Mbit/s", .doc = "mean offered traffic per user"});
  f.number("packet_bytes", packet_bytes, {.low = 1, .high = 1e6, .unit = "bytes", .doc = "size of a packet"});
  f.number("burst_on_slots", burst_on_slots, {.low = 1, .high = 1e6, .unit = "slots", .doc = "mean length of a burst (bursty)"});
  f.number("burst_off_slots", burst_off_slots, {.low = 0, .high = 1e6, .unit = "slots", .doc = "mean pause between bursts (bursty)"});
}

void LinkOptions::describe(Fields& f) {
  f.choice("mode", mode, {"spec", "sionna"}, "link level: TS 38.214, or equal to Sionna SYS 2.2");
  f.integer("mcs_table", mcs_table, {.low = 1, .high = 2, .doc = "PDSCH MCS table"});
  f.integer("re_per_prb", re_per_prb, {.low = 12, .high = 168, .unit = "resource elements", .doc = "data resource elements of a PRB in a slot"});
  f.number("bler_target", bler_target, {.low = 0.001, .high = 0.9, .doc = "first-transmission error rate that link adaptation aims at"});
  f.number("olla_delta_up_db", olla_delta_up_db, {.low = 0, .high = 10, .unit = "dB", .doc = "outer-loop step on a NACK; 0 switches the loop off"});
  f.number("olla_limit_db", olla_limit_db, {.low = 0, .high = 40, .unit = "dB", .doc = "largest outer-loop offset, either sign"});
}

void HarqOptions::describe(Fields& f) {
  f.flag("enabled", enabled, "retransmit failed blocks; off: a failed block is lost");
  f.integer("processes", processes, {.low = 1, .high = 32, .doc = "HARQ processes per user"});
  f.integer("max_transmissions", max_transmissions, {.low = 1, .high = 8, .doc = "transmissions of a block before it is given up"});
  f.integer("k1_slots", k1_slots, {.low = 0, .high = 16, .unit = "slots", .doc = "from transmission to feedback"});
  f.choice("combining", combining, {"chase", "ir"}, "soft combining: add SINRs, or lower the code rate");
}

void CellRewardOptions::describe(Fields& f) {
  f.choice("form", form, {"smoothed", "marginal"},
           "smoothed: levels of smoothed throughput and Jain's index; marginal: what the slot delivered and how it moved Jain's index");
  f.number("throughput", throughput, {.low = 0, .high = 100, .doc = "weight of smoothed cell throughput over the band's ceiling"});
  f.number("fairness", fairness, {.low = 0, .high = 100, .doc = "weight of Jain's index of smoothed user throughputs"});
  f.number("energy", energy, {.low = 0, .high = 100, .doc = "weight of the share of the power budget spent, subtracted"});
  f.number("smoothing", smoothing, {.low = 0, .high = 0.9999, .doc = "memory per slot of the throughputs in the reward"});
}

void PrbPowerOptions::describe(Fields& f) {
  f.block("cell", cell, "the cell: power, noise, scheduling units");
  f.block("csi", csi, "channel reports: delay and quantisation");
  f.block("traffic", traffic, "arrivals");
  f.block("link", link, "modulation, coding and link adaptation");
  f.block("harq", harq, "retransmissions");
  f.block("reward", reward, "reward terms");
  std::vector<std::string> prb_choices = prb_rule_names(), power_choices = power_rule_names();
  prb_choices.insert(prb_choices.begin(), "learned");
  power_choices.insert(power_choices.begin(), "learned");
  f.choice("prb", prb, prb_choices, "who assigns PRBs: the learned agent or a baseline");
  f.choice("power", power, power_choices, "who splits the power: the learned agent or a baseline");
  f.choice("resolver", resolver, {"fast", "exact"}, "quotas to PRBs: the slot's fast rule or the optimal transport");
  f.number("pf_beta", pf_beta, {.low = 0.5, .high = 0.9999, .doc = "memory per slot of the averages fair schedulers see"});
  f.integer("episode_slots", episode_slots, {.low = 1, .high = 1000000, .unit = "slots", .doc = "length of an episode"});
  f.integer("control_period_slots", control_period_slots, {.low = 1, .high = 100, .unit = "slots", .doc = "slots per decision; assignment and power are held in between"});
  f.choice("data", data, {"traces", "synthetic"}, "channels from trace files or from the built-in fading source");
  f.block("trace", trace, "values a trace file does not state");
  f.block("synthetic", synthetic, "the built-in fading source");
}

void PrbPowerOptions::validate() const {
  if (harq.enabled && harq.processes <= harq.k1_slots)
    throw ConfigError(fmt::format("harq.processes is {} but feedback takes harq.k1_slots = {} slots: give at least {} processes",
                                  harq.processes, harq.k1_slots, harq.k1_slots + 1));
  if (episode_slots % control_period_slots != 0)
    throw ConfigError(fmt::format("episode_slots = {} is not a multiple of control_period_slots = {}", episode_slots, control_period_slots));
}

}  // namespace trimtab
