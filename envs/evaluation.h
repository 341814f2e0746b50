// Evaluation: how an environment compares policies on matched realisations. `trimtab eval` (app/) does statistics, tables,
// JSON and reports over this interface; the environment knows its baselines, its metrics and what one episode is.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/registry.h"
#include "core/spec.h"

namespace trimtab {

// A deterministic agent as an evaluator sees it: a trained policy's mode, or an exported artefact through the runtime.
class AgentFunction {
 public:
  virtual ~AgentFunction() = default;
  // One decision. context [C], items [num_items, F], mask [num_items] of ItemMask; action [head.width()].
  // num_items may differ from the number trained on. Not thread-safe: each evaluation thread makes its own.
  virtual void decide(const float* context, const float* items, const uint8_t* mask, int num_items, float* action) = 0;
};
// Fresh, independent agents for one evaluation thread, by agent name ("prb", "power").
using AgentFactory = std::function<std::map<std::string, std::unique_ptr<AgentFunction>>()>;

struct MetricInfo {
  std::string name, unit;
  bool higher_is_better = true;
};
struct EvaluatedPolicy {
  std::string name;                 // "joint", "prb_only", "pf_equal", "gpf_2_la_power"
  std::string kind;                 // "learned", "baseline", "oracle"
};
// What one policy did in one episode (the unit resampled): a value per metric, and series for plots when asked for.
struct EpisodeResult {
  std::vector<double> metrics;                          // in the order of metrics()
  std::vector<double> samples;                          // per-user throughput (for CDFs); may be empty
  std::map<std::string, std::vector<float>> series;     // per step, only when asked for
};

class Evaluator {
 public:
  virtual ~Evaluator() = default;
  virtual std::vector<MetricInfo> metrics() const = 0;
  // Baselines always; the combinations of learned agents when `learned` is true.
  virtual std::vector<EvaluatedPolicy> policies(bool learned) const = 0;
  virtual int64_t num_episodes() const = 0;             // independent drops in this file
  // Thread-safe. Same (file, episode, seed): same world for every policy.
  virtual EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed,
                            bool with_series) const = 0;
  // (name, x metric, y metric, policies in order): curves to interpolate and plot, e.g. the generalised-PF frontier.
  struct Frontier { std::string name, x, y; std::vector<std::string> policies; };
  virtual std::vector<Frontier> frontiers() const { return {}; }
  virtual std::string reference() const = 0;            // the policy paired comparisons are against first: "pf_equal"
};

struct EvaluatorEntry {                                 // same name as the environment
  std::string name;
  std::function<std::unique_ptr<Evaluator>(const Config& env_config, const std::string& data_file)> make;
};

}  // namespace trimtab
