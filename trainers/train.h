// Training, as the command and scripts call it: one configuration in, one run folder filled. Implementation:
// trainers/run/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/ranks.h"
#include "policies/controllers/controller.h"

namespace trimtab {

using Policies = std::map<std::string, std::unique_ptr<Controller>>;  // by agent name

// The whole configuration with every default filled in: what goes into RUN/config.yaml, and what train()
// accepts again. ConfigError on anything wrong with any block. Does not open trace files.
std::string resolve_config(const Config& config);

// What train() would do, as text: batches, steps, sizes. Opens environments, data and models as train() does, so
// that what is wrong with them is told here; trains and writes nothing. ConfigError, DataError.
std::string training_plan(const Config& config);

// The `run:` and `checkpoint:` and `eval:` blocks, for whoever opens the run folder.
struct RunOptions {
  std::string name = "run", device = "cpu", precision = "auto", out = "runs";
  int64_t seed = 1, threads = 0;  // 0: as many as the machine has
  void describe(Fields& f);
  static RunOptions of(const Config& config);
};

struct TrainHooks {
  std::filesystem::path run_folder;  // exists; checkpoints/ and metrics.jsonl are made in it, or continued
  bool progress = true;              // a progress bar on standard error
  // Scores the present policies on validation data, higher is better; the best score's checkpoint is marked
  // `best`. Without it the mean return of eval.episodes episodes in mode on data.validation decides.
  std::function<double(const Policies& policies, int64_t step)> score;
  // Once, before the first update, on the main rank: the step it goes on from, 0 without a checkpoint.
  std::function<void(int64_t step)> on_start = {};
  // After each update: everything logged. For tests and benchmarks.
  std::function<void(int64_t step, const std::vector<std::pair<std::string, double>>& metrics)> on_metrics;
  // The processes that train together, one call of train() in each, with the same configuration and folder. They share
  // the instances, or the prompts, of the configuration and take the same steps. The main one alone writes and logs.
  Ranks* ranks = &one_process();
};

struct TrainResult {
  int64_t steps = 0;            // environment steps over the whole run
  double seconds = 0;           // wall-clock time of this call
  double steps_per_second = 0;  // of this call, evaluation and checkpoints included
  double last_return = 0;       // mean training return of the last update that finished an episode
  double best_score = 0;        // NaN when nothing was evaluated
  int64_t best_step = -1;
  bool resumed = false;
};

// Runs to the end, resuming from the newest checkpoint in the run folder if there is one. Throws Interrupted
// after Ctrl-C with a checkpoint written; RunError on non-finite numbers, with the batch in
// RUN/nonfinite-NETWORK.safetensors.
TrainResult train(const Config& config, const TrainHooks& hooks);

// Policies of a run, for evaluation and export: `which` is "best" (falls back to "latest" when there is
// none), "latest" or a step number. Needs no trace file.
Policies load_policies(const std::filesystem::path& run_folder, const std::string& which);
// What those agents see and do, in the order of their turns.
std::vector<AgentSpec> load_agents(const std::filesystem::path& run_folder, const std::string& which);

}  // namespace trimtab
