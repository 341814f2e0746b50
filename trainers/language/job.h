// A language run's configuration, read and checked: the blocks of the one YAML shape, where `policy` names a model.
#pragma once

#include <ATen/core/Tensor.h>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "envs/text_environment.h"
#include "trainers/language/learner.h"
#include "trainers/run/job.h"

namespace trimtab {

// Low-rank adapters beside the model's frozen weights (policies/language/lora.h).
struct LoraBlock {
  int64_t rank = 0;
  double alpha = 32;
  bool rslora = false;
  std::vector<std::string> targets = LoraConfig{}.targets;
  void describe(Fields& f);
};
struct LanguagePolicyOptions {
  std::string model, tokenizer, adapter;
  LoraBlock lora;
  ArchitectureOptions architecture;
  void describe(Fields& f);
  void validate() const;
};
struct LanguageEvalOptions {
  int64_t every = 0, episodes = 256, samples = 1, max_tokens = 256;
  bool greedy = true;
  void describe(Fields& f);
};

struct LanguagePhase {
  PhaseOptions options;
  Config env, trainer;   // with the phase's overrides; trainer with its preset filled in
  std::string yaml;      // the phase as one line of YAML
};

class LanguageJob {
 public:
  explicit LanguageJob(const Config& config);   // ConfigError on anything wrong that can be seen without data

  RunOptions run;
  DataOptions data;
  LanguagePolicyOptions policy;
  LanguageEvalOptions eval;
  CheckpointOptions checkpoint;
  std::vector<LanguagePhase> phases;

  int64_t total_steps() const;
  std::unique_ptr<TextEnvironment> make_environment(const Config& env) const;
  LanguageModel make_model() const;   // reads policy.model, or makes a new one; with its adapter. ConfigError, DataError
  std::string resolved() const;
  // run.device and run.precision. ConfigError where this build or machine has no such device, or no kernels for the format on it.
  at::TensorOptions compute() const;

 private:
  void read_phases();
  LanguageModel make_base() const;
  void prepare(LanguageModel& model) const;
  void add_adapter(LanguageModel& model) const;
  Config config_;
};

// The kind of learner a trainer block asks for by its preset, and the block with that preset filled in.
const LanguageLearnerEntry& learner_of(const Config& trainer);
Config with_preset(const Config& trainer);

}  // namespace trimtab
