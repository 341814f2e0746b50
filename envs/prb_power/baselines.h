// Schedulers and power rules of today, over the same observed (delayed, quantised) state as the learned agents.
#pragma once

#include <string>
#include <vector>

namespace trimtab {

// Who gets which PRB. Everything fair is one rule: argmax of rate / average^exponent per PRB.
struct PrbRule {
  enum class Kind { kRoundRobin, kGeneralisedFair } kind = Kind::kGeneralisedFair;
  double exponent = 1;   // 0: max C/I, 1: proportional fair, larger: fairer
};
// How the budget is split once PRBs are assigned.
enum class PowerRule {
  kEqual,         // the same on every assigned PRB
  kFair,          // Sionna's downlink fair power control (fairness 1, half of the budget guaranteed)
  kWaterFilling,  // max sum of log2(1 + p q) over PRBs
  kLadder,        // link-adaptation-aware: most bits per watt to the next MCS step (tt_cell_fill_power)
  kPrior,         // the same as the learned power agent starts from it: with cell.levelling and cell.probe_db
};

std::vector<std::string> prb_rule_names();     // round_robin, max_ci, pf, gpf_0.5, ...: choices of `env.prb`
std::vector<std::string> power_rule_names();   // equal, fair, water, la, prior
PrbRule prb_rule(const std::string& name);     // also any gpf_A; ConfigError otherwise
PowerRule power_rule(const std::string& name);

}  // namespace trimtab
