// Latency of a full PRB and power decision through the runtime alone, as a base station makes it in a slot:
// achievable rates, features, the PRB agent, quotas and assignment, retransmissions, the power ladder, the
// power agent, watts per PRB. The slots are those of a running prb_power cell; the agents are untrained 2x64
// networks over the users (weights do not change the time of the networks). Worker of bench/harness.py:
// bench_decision USERS PRBS [SLOTS].

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "domain/radio/trace.h"
#include "envs/prb_power/cell.h"
#include "policies/controllers/export.h"
#include "runtime/test/count_allocations.h"
#include "trimtab/cell.h"
#include "trimtab/glue.h"
#include "trimtab/runtime.h"

namespace {

using namespace trimtab;

enum Stage {
  kRates,
  kPrbFeatures,
  kPrbAgent,
  kResolve,
  kRetransmissions,
  kLadder,
  kPowerFeatures,
  kPowerAgent,
  kSpread,
  kNumStages
};
constexpr const char* kStageNames[kNumStages] = {"rates",          "prb_features",    "prb_agent",
                                                 "resolve",        "retransmissions", "ladder",
                                                 "power_features", "power_agent",     "spread"};

// What a base station sets up once: the cell's tables and the exported agents.
class Decider {
 public:
  Decider(const Cell& cell, int users, int prbs) : users_(users), setup_(cell.setup()) {
    open_agents(cell);
    memory_.resize(static_cast<size_t>(tt_cell_scratch_floats(users, prbs)) + 16);
    float* aligned = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64);
    tt_cell_scratch_init(&scratch_, users, prbs, aligned);
    workspace_.resize(tt_assign_workspace_size(users, prbs));
    context_.resize(TT_CELL_CONTEXT);
    items_.resize(static_cast<size_t>(users) * std::max(TT_CELL_PRB_FEATURES, TT_CELL_POWER_FEATURES));
    shares_.resize(users), weight_.resize(users), prb_power_.resize(prbs);
    owner_.resize(prbs), counts_.resize(users), mask_.resize(users);
  }
  ~Decider() { tt_close(controller_); }

  // mark(stage) is called after each stage.
  template <class Mark>
  void decide(const tt_cell_slot& slot, const Mark& mark) {
    tt_cell_efficiency(&setup_, &slot, &scratch_);
    mark(kRates);
    tt_cell_prb_features(&setup_, &slot, &scratch_, context_.data(), items_.data());
    mark(kPrbFeatures);
    tt_decide(controller_, 0, context_.data(), items_.data(), slot.active, users_, shares_.data());
    mark(kPrbAgent);
    tt_cell_resolve(&setup_, &slot, &scratch_, shares_.data(), 0, owner_.data(), counts_.data(),
                    workspace_.data());
    mark(kResolve);
    tt_cell_fair_weights(&slot, 1.0f, weight_.data());
    tt_cell_place_retransmissions(&setup_, &slot, weight_.data(), scratch_.efficiency, owner_.data(),
                                  counts_.data());
    mark(kRetransmissions);
    tt_cell_ladder(&setup_, &slot, owner_.data(), counts_.data(), &scratch_);
    mark(kLadder);
    tt_cell_power_features(&setup_, &slot, owner_.data(), counts_.data(), &scratch_, context_.data(),
                           items_.data());
    mark(kPowerFeatures);
    for (int u = 0; u < users_; ++u) mask_[u] = counts_[u] > 0;
    tt_decide(controller_, 1, context_.data(), items_.data(), mask_.data(), users_, shares_.data());
    mark(kPowerAgent);
    tt_cell_spread_power(&setup_, &slot, shares_.data(), owner_.data(), &scratch_, prb_power_.data());
    mark(kSpread);
  }
  float watts() const {
    float sum = 0;
    for (const float w : prb_power_) sum += w;
    return sum;
  }

 private:
  void open_agents(const Cell& cell) {
    const auto& agents = cell.spec().agents;
    const auto policy = [&](int a) {
      ControllerOptions options;
      options.residual = a == 0 ? "log_pf_share" : "log_fill_share";
      return Controller::policy(agents[a], options, 1);
    };
    const auto prb = policy(0), power = policy(1);
    const std::string bytes =
        artefact_bytes({{.spec = agents[0], .policy = prb.get(), .meaning = "shares of PRBs", .fallback = {}},
                        {.spec = agents[1], .policy = power.get(), .meaning = "shares of power", .fallback = {}}},
                       {});
    char why[256];
    if (tt_open_memory(bytes.data(), bytes.size(), nullptr, &controller_, why, sizeof why) != TT_OK) {
      std::fprintf(stderr, "bench_decision: %s\n", why);
      std::exit(4);
    }
  }

  int users_;
  tt_cell_setup setup_;  // its tables are the cell's
  tt_controller* controller_ = nullptr;
  tt_cell_scratch scratch_{};
  std::vector<float> memory_, context_, items_, shares_, weight_, prb_power_;
  std::vector<uint8_t> mask_, workspace_;
  std::vector<int> owner_, counts_;
};

tt_cell_slot view(const Cell::State& s, int users) {
  return {.num_users = users,
          .sinr_per_watt = s.sinr_per_watt.data(),
          .average_bits = s.average.data(),
          .offset_db = s.offset_db.data(),
          .reliability = s.reliability.data(),
          .backlog_bits = s.backlog_bits.data(),
          .delay_slots = s.delay_slots.data(),
          .active = s.active.data(),
          .retx_prbs = s.retx_prbs.data(),
          .retx_mcs = s.retx_mcs.data()};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: bench_decision USERS PRBS [SLOTS]\n"), 2;
  const int users = std::atoi(argv[1]), prbs = std::atoi(argv[2]),
            slots = argc > 3 ? std::atoi(argv[3]) : 10000;
  PrbPowerOptions options;
  options.data = "synthetic";
  options.synthetic.num_users = users;
  options.synthetic.num_prb = prbs;
  options.cell.tx_power_dbm = 30;
  const Cell cell(options, {radio::synthetic_trace(options.synthetic)});
  Decider decider(cell, users, prbs);
  Cell::State state;
  uint64_t episode = 0;
  std::printf("{\"ready\": true}\n");
  std::fflush(stdout);
  char line[64];
  using Clock = std::chrono::steady_clock;
  const auto us = [](Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); };
  std::vector<double> times, stages[kNumStages];
  times.reserve(slots);
  for (auto& stage : stages) stage.reserve(slots);
  while (std::fgets(line, sizeof line, stdin)) {
    times.clear();
    for (auto& stage : stages) stage.clear();
    uint64_t allocations = 0;
    double watts = 0;
    for (int t = 0; t < slots; ++t) {
      if (t % options.episode_slots == 0) cell.reset(state, {.seed = 1, .episode = episode++ % 4});
      const tt_cell_slot slot = view(state, users);
      const int64_t before = ::allocations();
      const auto begin = Clock::now();
      decider.decide(slot, [](Stage) {});
      times.push_back(us(Clock::now() - begin));
      auto last = Clock::now();
      decider.decide(slot, [&](Stage stage) {  // once more, stage by stage
        const auto now = Clock::now();
        stages[stage].push_back(us(now - last));
        last = now;
      });
      allocations += ::allocations() - before;
      watts += decider.watts();
      cell.schedule(state, prb_rule("pf"));  // the cell itself moves on by proportional fair
      cell.split_power(state, PowerRule::kEqual);
      cell.transmit(state);
    }
    std::sort(times.begin(), times.end());
    const auto at = [&](double p) {
      return times[static_cast<size_t>(p * static_cast<double>(times.size() - 1))];
    };
    std::printf(
        "{\"p50\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.2f, \"allocations\": %llu, "
        "\"mean_watts\": %.4f, \"stages\": {",
        at(0.5), at(0.99), at(0.999), at(1.0), static_cast<unsigned long long>(allocations), watts / slots);
    for (int k = 0; k < kNumStages; ++k) {
      std::nth_element(stages[k].begin(), stages[k].begin() + slots / 2, stages[k].end());
      std::printf("%s\"%s\": %.3f", k ? ", " : "", kStageNames[k], stages[k][slots / 2]);
    }
    std::printf("}}\n");
    std::fflush(stdout);
  }
}
