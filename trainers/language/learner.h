// What learns in a language run: one object per phase, one call per update. Kinds register themselves (supervised, group-relative);
// the run around them (job.h, run.cpp) does phases, evaluation, checkpoints and metrics.
#pragma once

#include <ATen/core/Tensor.h>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint.h"
#include "core/config.h"
#include "core/pool.h"
#include "envs/text_environment.h"
#include "policies/language/pretrained.h"
#include "core/ranks.h"
#include "trainers/fit/guard.h"
#include "trainers/fit/sharded_adam.h"
#include "trainers/language/packing.h"

namespace trimtab {

// What a learner works with; all of it outlives the learner.
struct LanguageContext {
  LanguageModel* model = nullptr;
  TextEnvironment* environment = nullptr;
  Pool* pool = nullptr;
  uint64_t seed = 0;
  uint64_t phase = 0;                  // phases never meet each other's problems or draws
  std::filesystem::path run_folder;    // sample completions and dumps go here
  at::TensorOptions compute = at::TensorOptions().dtype(at::kFloat);   // where forward and backward run, and in which format (run.device, run.precision)
  std::function<LanguageModel()> load_start;   // the model the run started from, read again: a reference
  // Those that train together: each makes the same calls and draws the same batches, and computes its share of replies and micro-batches
  // (shared_work.h, gradient_shards.h). Only the main one writes files.
  Ranks* ranks = &one_process();
  std::string start_name = {};         // what that model is called, policy.model; empty: it was new
};

class LanguageLearner {
 public:
  using Metrics = std::vector<std::pair<std::string, double>>;
  virtual ~LanguageLearner() = default;
  // Update number `update` of the phase, which is `progress` through it (0 to 1).
  virtual Metrics update(int64_t update, double progress) = 0;
  // Everything but the model's parameters that the next update depends on.
  virtual void save(Checkpoint& checkpoint) = 0;
  virtual void load(const Checkpoint& checkpoint) = 0;
  virtual void settle() {}                       // what runs beside the updates comes to rest: an evaluation or a checkpoint follows
  virtual int64_t steps() const = 0;             // of the phase
  virtual double until_accuracy() const { return 0; }   // greedy validation accuracy that ends the phase early; 0: none
  virtual double temperature() const { return 1; }      // what evaluation samples at
  virtual int64_t answer_tokens() const { return 0; }   // a masked diffusion model's answers in evaluation; 0: eval.max_tokens
  virtual Metrics evaluate() { return {}; }             // figures of its own at every evaluation
  virtual std::string judged_by() const { return ""; }  // one of them, by which the best model is chosen, the larger the better; empty: eval/reward
};

// How large an update is, before there is one.
struct LanguageBatch {
  int64_t prompts = 1, replies = 1;   // per update; replies per prompt
  int64_t max_tokens = 0;             // of a sampled reply; 0: replies are given
  int64_t tries = 1;                  // batches of replies that one update may take
  int64_t minibatches = 1, epochs = 1, token_budget = 0, shards = 1;
  bool shared_prefix = true, reference = false;
  bool gradient = true;               // false: the epochs are forward passes alone
};

// A kind of learner with its options. `trainer` is the trainer block with its preset filled in.
struct LanguageLearnerEntry {
  std::string name, doc;
  std::function<std::unique_ptr<LanguageLearner>(const Config& trainer, const LanguageContext& context)> make;
  std::function<std::string(const Config& trainer)> resolved;   // every key; checks them, and needs nothing else
  std::function<int64_t(const Config& trainer)> steps;
  std::function<LanguageBatch(const Config& trainer)> batch;
  std::function<std::vector<FieldLine>(const std::string& preset)> help;
  // Makes a model what this kind trains, a masked diffusion model; `fresh`: it has learned nothing yet. Null: it trains causal models.
  std::function<void(LanguageModel& model, const Config& trainer, bool fresh)> prepare = {};
};

// AdamW over what of a model trains (Transformer::trainable), with clipping by the global norm and a guard (trainers/fit/guard.h). Every
// rank calls everything here; moments are spread over them.
class FlatOptimiser {
 public:
  FlatOptimiser(const Transformer& model, const AdamOptions& options, const GuardBlock& guard, Ranks& ranks);
  // One step with the model's flat_gradient(), of which this rank's piece is the sum over ranks (gradient_shards.h); zero afterwards. `loss`
  // is the same on all ranks. Returns the gradient's norm before clipping. When one of them is not finite `dump` writes the batch, called on
  // the main rank alone, and returns the file's name or more; RunError, or the step is left out.
  double step(double lr, double max_grad_norm, double loss, const std::function<std::string()>& dump);
  // `metrics` and the guard's counts.
  LanguageLearner::Metrics with_guard(LanguageLearner::Metrics metrics) const;
  void save(Checkpoint& checkpoint);
  void load(const Checkpoint& checkpoint);

 private:
  const Transformer& model_;
  Ranks& ranks_;
  ShardedAdam adam_;
  StepGuard guard_;
};

// The tokens of an update's micro-batches, to RUN/nonfinite.safetensors; the file's name.
std::string dump(const std::filesystem::path& run_folder, std::span<const MicroBatch> batches);

}  // namespace trimtab
