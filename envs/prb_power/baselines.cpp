#include "envs/prb_power/baselines.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/error.h"
#include "envs/prb_power/cell.h"
#include "trimtab/glue.h"

namespace trimtab {

std::vector<std::string> prb_rule_names() {
  return {"round_robin", "max_ci", "pf", "gpf_0.25", "gpf_0.5", "gpf_0.7", "gpf_0.85", "gpf_1.2", "gpf_1.5", "gpf_2", "gpf_3"};
}
std::vector<std::string> power_rule_names() { return {"equal", "fair", "water", "la", "prior"}; }

PrbRule prb_rule(const std::string& name) {
  if (name == "round_robin") return {PrbRule::Kind::kRoundRobin, 0};
  if (name == "max_ci") return {PrbRule::Kind::kGeneralisedFair, 0};
  if (name == "pf") return {PrbRule::Kind::kGeneralisedFair, 1};
  if (name.starts_with("gpf_")) {
    char* end = nullptr;
    const double exponent = std::strtod(name.c_str() + 4, &end);
    if (*end == 0 && end != name.c_str() + 4 && exponent >= 0 && exponent <= 10) return {PrbRule::Kind::kGeneralisedFair, exponent};
  }
  throw ConfigError(fmt::format("'{}' is no PRB rule: use round_robin, max_ci, pf or gpf_A with an exponent A in [0, 10]", name));
}

PowerRule power_rule(const std::string& name) {
  if (name == "equal") return PowerRule::kEqual;
  if (name == "fair") return PowerRule::kFair;
  if (name == "water") return PowerRule::kWaterFilling;
  if (name == "la") return PowerRule::kLadder;
  if (name == "prior") return PowerRule::kPrior;
  throw ConfigError(fmt::format("'{}' is no power rule: use equal, fair, water, la or prior", name));
}

void Cell::spread_to_prbs(State& s) const {
  for (int f = 0; f < num_prb_; ++f)
    s.prb_power_w[f] = s.owner[f] < 0 ? 0.0f : s.user_power_w[s.owner[f]] / static_cast<float>(s.counts[s.owner[f]]);
}

void Cell::split_power(State& s, PowerRule rule) const {
  switch (rule) {
    case PowerRule::kEqual: {
      int assigned = 0;
      for (const int count : s.counts) assigned += count;
      for (int u = 0; u < num_users_; ++u)
        s.user_power_w[u] = s.counts[u] > 0 ? budget_w_ * static_cast<float>(s.counts[u]) / static_cast<float>(assigned) : 0.0f;
      spread_to_prbs(s);
      break;
    }
    case PowerRule::kFair: split_power_fair(s); break;
    case PowerRule::kWaterFilling: split_power_water(s); break;
    case PowerRule::kLadder: fill_ladder(s, plain_setup_); break;
    case PowerRule::kPrior: fill_ladder(s, setup_); break;
  }
}

void Cell::fill_ladder(State& s, const tt_cell_setup& setup) const {
  const tt_cell_slot slot = view(s);
  tt_cell_scratch scratch_view = scratch(s);
  tt_cell_ladder(&setup, &slot, s.owner.data(), s.counts.data(), &scratch_view);
  tt_cell_fill_power(&setup, &slot, s.counts.data(), &scratch_view, s.user_power_w.data());
  tt_cell_spread_power(&setup, &slot, s.user_power_w.data(), s.owner.data(), &scratch_view, s.prb_power_w.data());
}

// Shares of the budget by user, levelled over a user's PRBs; what users without PRBs were given goes to the others.
void Cell::split_power_by_shares(State& s, const float* shares) const {
  const tt_cell_slot slot = view(s);
  tt_cell_scratch scratch_view = scratch(s);
  tt_cell_spread_power(&setup_, &slot, shares, s.owner.data(), &scratch_view, s.prb_power_w.data());
}

// Sionna's downlink fair power control over scheduled users, on wideband path loss, proportional fairness (fairness 1).
void Cell::split_power_fair(State& s) const {
  radio::FairPowerProblem problem;
  problem.interference_plus_noise_w = 1.0;  // sinr_per_watt holds the noise already
  problem.max_power_dbm = options_.cell.tx_power_dbm;
  problem.fairness = 1;
  std::vector<int> users;
  for (int u = 0; u < num_users_; ++u) {
    if (s.counts[u] == 0) continue;
    double mean = 0;
    for (int f = 0; f < num_prb_; ++f) mean += s.sinr_per_watt[static_cast<size_t>(u) * num_prb_ + f];
    if (mean <= 0) continue;
    users.push_back(u);
    problem.pathloss.push_back(num_prb_ / mean);
    problem.num_re.push_back(s.counts[u]);
  }
  std::fill(s.user_power_w.begin(), s.user_power_w.end(), 0.0f);
  if (!users.empty()) {
    const radio::FairPower answer = radio::fair_power(problem);
    for (size_t k = 0; k < users.size(); ++k) s.user_power_w[users[k]] = static_cast<float>(answer.tx_power_w[k]);
  }
  spread_to_prbs(s);
}

// max sum over PRBs of log2(1 + p q): p = max(level - 1/q, 0), the level found on the sorted 1/q.
void Cell::split_power_water(State& s) const {
  std::vector<float> cost;
  for (int f = 0; f < num_prb_; ++f) {
    const float q = s.owner[f] < 0 ? 0.0f : s.sinr_per_watt[static_cast<size_t>(s.owner[f]) * num_prb_ + f];
    if (q > 0) cost.push_back(1 / q);
  }
  std::fill(s.prb_power_w.begin(), s.prb_power_w.end(), 0.0f);
  if (cost.empty()) return;
  std::sort(cost.begin(), cost.end());
  double sum = 0, level = 0;
  for (size_t k = 0; k < cost.size(); ++k) {
    sum += cost[k];
    const double candidate = (budget_w_ + sum) / static_cast<double>(k + 1);
    if (candidate <= cost[k]) break;
    level = candidate;
  }
  for (int f = 0; f < num_prb_; ++f) {
    const float q = s.owner[f] < 0 ? 0.0f : s.sinr_per_watt[static_cast<size_t>(s.owner[f]) * num_prb_ + f];
    if (q > 0) s.prb_power_w[f] = static_cast<float>(std::max(level - 1.0 / q, 0.0));
  }
}

}  // namespace trimtab
