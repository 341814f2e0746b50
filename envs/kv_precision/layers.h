// Widths of a KV cache, unit by unit (layers, or KV heads): one step per unit, action = a pair of widths for its keys and values among
// those that leave enough budget for the units to come. Reward: what that pair costs in KL by the additive surrogate
// (domain/kv_precision), over the least that the relaxed problem allows; so a return of -1 is the relaxed optimum. The exact optimum is
// known (best_allocation), so this environment also tests trainers.
//
// A world is a table and a budget in bits per number of packed pages, scales included. State is plain data.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "domain/kv_precision/allocation.h"
#include "envs/environment.h"
#include "envs/evaluation.h"

namespace trimtab {

struct KvLayersOptions {
  std::string mode = "layers";
  double low_bits = 2.5, high_bits = 6;   // budgets are drawn between them
  void describe(Fields& f);
  void validate() const;
};

KvLayersOptions kv_layers_options(const Config& config);   // of the env block
std::vector<KvSensitivity> open_sensitivities(const std::vector<std::string>& files);   // ConfigError for none, DataError for bad ones

class KvLayers {
 public:
  struct State {
    int32_t table = 0, unit = 0, chosen = 0;
    int64_t left = 0;      // bytes, of one page of all remaining units
    double scale = 1;      // KL of the relaxed problem from the start
    double kl = 0;         // so far
    double spent = 0;      // bytes so far
  };
  // ConfigError when a table's cheapest widths exceed low_bits, DataError when tables disagree on their pairs.
  KvLayers(const KvLayersOptions& options, std::vector<KvSensitivity> tables);

  const EnvSpec& spec() const { return spec_; }
  void reset(State& s, WorldKey key) const;
  void begin(State& s, int64_t table, double bits) const;   // a given budget
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const { observe(s, 0, out); }
  void act(State& s, int agent, const float* action) const;
  StepOutcome step(State& s, float* terms) const;
  template <class Add>
  void episode_statistics(const State& s, const Add& add) const {
    add("surrogate_kl", s.kl);
    add("over_relaxed", s.kl / s.scale - 1);
  }

  const KvSensitivity& table(int64_t i) const { return tables_[i]; }

 private:
  bool allowed(const State& s, int64_t pair) const;

  KvLayersOptions options_;
  std::vector<KvSensitivity> tables_;
  EnvSpec spec_;
};

// What trained agents choose on the first table under a budget of `bits`.
KvAllocation decide_widths(const KvLayers& env, const AgentFactory& agents, double bits);
std::unique_ptr<Evaluator> make_layers_evaluator(const Config& config, const std::string& file);

}  // namespace trimtab
