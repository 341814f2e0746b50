// Families of learners that share the command, the YAML shape, the run folder, metrics and checkpoints. Which one a configuration
// belongs to follows from its environment.
#pragma once

#include <functional>
#include <string>

#include "trainers/train.h"

namespace trimtab {

// TT_REGISTER(LearnerFamily, controllers, {.name = "controllers", ...}).
struct LearnerFamily {
  std::string name, doc;
  std::function<bool(const std::string& environment)> trains;   // is this environment one of its own?
  std::function<std::string(const Config& config)> resolve;
  std::function<TrainResult(const Config& config, const TrainHooks& hooks)> train;
  std::function<std::string(const Config& config)> plan;   // what train() would do, as lines of text; trains and writes nothing
};

// The family of a configuration; ConfigError for an environment that is unknown or needs a build with LibTorch.
const LearnerFamily& family_of(const Config& config);

}  // namespace trimtab
