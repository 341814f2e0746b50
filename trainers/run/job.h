// A training run's configuration, read and checked: the blocks of DESIGN's one YAML shape.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/text.h"
#include "envs/environment.h"
#include "policies/controllers/controller.h"
#include "trainers/policy_gradient/options.h"
#include "trainers/train.h"

namespace trimtab {

int thread_count(int64_t wanted);  // run.threads; 0: as many as the machine has

struct DataOptions {
  std::vector<std::string> train, validation;
  void describe(Fields& f);
};
struct EvalOptions {
  int64_t every = 0, episodes = 16;
  void describe(Fields& f);
};
struct CheckpointOptions {
  int64_t every = 0, keep = 3;
  void describe(Fields& f);
};
struct PhaseOptions {
  std::string name = "main";
  int64_t steps = 0;
  std::vector<std::string> learn;
  void describe(Fields& f);
};

struct JobPhase {
  PhaseOptions options;
  TrainerOptions trainer;
  Config env;        // the env block with the phase's overrides
  std::string yaml;  // the phase as one line of YAML
};

class Job {
 public:
  explicit Job(const Config& config);  // ConfigError on anything wrong that can be seen without trace files

  RunOptions run;
  DataOptions data;
  EvalOptions eval;
  CheckpointOptions checkpoint;
  std::vector<JobPhase> phases;

  int64_t total_steps() const;
  int threads() const;
  // Options of the policy of `agent`, or of "critic".
  ControllerOptions controller_options(const std::string& agent) const;
  std::unique_ptr<BatchEnvironment> make_environment(const JobPhase& phase, bool validation,
                                                     int64_t size) const;
  // Opens every phase's environment once: names of agents in policy: and learn: must exist. ConfigError,
  // DataError.
  void check_agents() const;
  std::string resolved() const;

 private:
  const EnvironmentEntry& environment(const Config& env) const;
  void read_phases();

  Config config_;
};

// A block of a resolved configuration: every key with its value.
template <class Options>
std::string yaml_block(const std::string& name, const Options& options) {
  return name + ":\n" + indented(yaml_of(options));
}
std::string flow_yaml(const std::string& yaml);  // a YAML document on one line
// The trainer block with its preset filled in.
TrainerOptions read_trainer(const Config& trainer);

}  // namespace trimtab
