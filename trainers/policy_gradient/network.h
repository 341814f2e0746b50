// One trainable network (a policy or a critic) and its passes over a rollout: minibatches split into a fixed
// number of parts, gradients added in the order of the parts, one Adam step per minibatch. Results do not
// depend on the number of threads. A minibatch is made of one piece from each rank: sums over its rows go
// through Ranks, so all ranks take the same step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/pool.h"
#include "core/ranks.h"
#include "core/safetensors.h"
#include "policies/controllers/controller.h"
#include "trainers/fit/guard.h"
#include "trainers/fit/sharded_adam.h"
#include "trainers/policy_gradient/options.h"
#include "trainers/policy_gradient/store.h"

namespace trimtab {

// Rows to learn from, by row number of the rollout.
struct PolicyData {
  const ObservationStore* observation = nullptr;
  const float* raw = nullptr;        // [rows, raw_width]
  const float* logp = nullptr;       // [rows] at sampling
  const float* advantage = nullptr;  // [rows]
  const float* factor = nullptr;     // [rows] product of earlier agents' ratios; null: 1
};
struct ValueData {
  const ObservationStore* observation = nullptr;
  const float* value = nullptr;   // [rows] before the update, in the critic's own units
  const float* target = nullptr;  // [rows] in the critic's own units
};

struct FitPlan {
  std::span<const uint32_t> rows;  // rows that count
  // Ratios of whole episodes: episode i is rows[sequence_begin[i]] up to rows[sequence_begin[i + 1]], and no
  // minibatch cuts one. Empty: rows are on their own.
  std::span<const int64_t> sequence_begin = {};
  const float* weight = nullptr;  // [rows of the rollout] relative weight, mean 1 over rows of all ranks
  // Minibatches are drawn from the rows, or episodes, of all ranks in their order; these are numbers first_ to first_ + own.
  int64_t total_rows = 0, first_row = 0;
  int64_t total_sequences = 0, first_sequence = 0;
  uint64_t seed = 0;
  uint32_t update = 0;
  double lr = 0;
  std::string dump_stem;  // the batch goes to STEM-NAME.safetensors when a number is not finite
  Ranks* ranks = &one_process();
};

// Means over the minibatches of one update.
struct FitStats {
  PolicyLossSums loss;
  double grad_norm = 0;
  int64_t minibatches = 0;
  bool stopped_early = false;  // target_kl
};

class Network {
 public:
  Network(std::string name, std::unique_ptr<Controller> controller)
      : name_(std::move(name)), controller_(std::move(controller)) {}

  const std::string& name() const { return name_; }
  Controller& controller() { return *controller_; }
  const Controller& controller() const { return *controller_; }

  // Makes room for the minibatches of a rollout and the optimiser, before the first fit of a phase.
  struct RowCount {
    int64_t own = 0, all = 0;   // of this rank, of all
  };
  void prepare(const ObservationSpec& view, const TrainerOptions& options, RowCount rows, Ranks& ranks);

  FitStats fit_policy(const FitPlan& plan, const PolicyData& data, Pool& pool);
  FitStats fit_value(const FitPlan& plan, const ValueData& data, Pool& pool);
  void values(const ObservationStore& view, int64_t rows, float* value, Pool& pool);
  void log_probabilities(const ObservationStore& view, const float* raw, int64_t rows, float* logp,
                         Pool& pool);

  void save(TensorFile& file);  // under "policy.NAME." and "optimiser.NAME."; every rank calls it
  void load(const TensorFile& file, Ranks& ranks);
  StepGuard& guard() { return *guard_; }   // after prepare()
  ControllerWorkspace& workspace() { return *scratch_[0].workspace; }  // for the odd evaluation between fits
  bool warm = false;  // the observation normaliser has seen data

  static constexpr int64_t kChunk =
      256;  // rows per forward and backward: activations stay in the second-level cache

 private:
  static constexpr int64_t kMaxParts = 8;  // parts of a minibatch, each of at least kChunk rows
  static constexpr int64_t kScratch = 4;   // scratch areas at least, for evaluations outside of minibatches

  struct Scratch {
    ObservationStore observation;                 // [kChunk]
    std::vector<float> raw, a, b, c, d, e, f, g;  // [kChunk] columns of the loss
    std::vector<float> gradient;                  // [parameters]
    std::unique_ptr<ControllerWorkspace> workspace;
    PolicyLossSums sums;
  };
  // A whole minibatch, where a row's loss needs other rows: the ratios of episodes.
  struct Whole {
    std::vector<float> logp, old, entropy, advantage, weight, d_logp, d_entropy;
    std::vector<int64_t> sequence_begin;
    PolicyLossSums sums;
    void resize(size_t rows);
  };
  struct Minibatch {
    std::span<const uint32_t> rows;           // of this rank
    std::span<const int64_t> sequence_begin;  // in rows
    int64_t total_rows = 0;                   // of all ranks
    float shift = 0, scale = 1;               // of advantages
  };

  struct NonFinite {
    std::string what;
    std::span<const uint32_t> rows;   // of the minibatch
  };
  using Explain = std::function<std::string(const NonFinite& bad)>;   // dumps the minibatch and says what is wrong
  template <class Before, class Chunk>
  FitStats fit(const FitPlan& plan, const float* whiten, Pool& pool, const Explain& explain, Before&& before, Chunk&& chunk);
  template <class Chunk>
  int64_t over_chunks(const Minibatch& batch, Pool& pool, Chunk&& chunk);
  template <class Chunk>
  PolicyLossSums gradient_of(const Minibatch& batch, Pool& pool, Ranks& ranks, Chunk&& chunk);
  void shuffle(const FitPlan& plan, int64_t units, uint32_t epoch);
  Minibatch minibatch(const FitPlan& plan, int64_t k, int64_t parts);
  void load_policy_rows(const FitPlan& plan, const PolicyData& data, const Minibatch& batch,
                        std::span<const uint32_t> rows, Scratch& s) const;
  void policy_chunk(const FitPlan& plan, const PolicyData& data, const Minibatch& batch,
                    std::span<const uint32_t> rows, Scratch& s) const;
  void whole_loss(const FitPlan& plan, const PolicyData& data, const Minibatch& batch, Pool& pool);
  void whole_chunk(const FitPlan& plan, const PolicyData& data, const Minibatch& batch,
                   std::span<const uint32_t> rows, Scratch& s) const;
  void value_chunk(const FitPlan& plan, const ValueData& data, const Minibatch& batch,
                   std::span<const uint32_t> rows, Scratch& s) const;
  template <class Block>
  void over_blocks(int64_t rows, Pool& pool, Block&& block);
  std::string non_finite_tensor(double loss) const;
  std::string report(const FitPlan& plan, const NonFinite& bad, TensorFile& file) const;

  std::string name_;
  std::unique_ptr<Controller> controller_;
  TrainerOptions options_;
  std::unique_ptr<ShardedAdam> adam_;
  std::optional<StepGuard> guard_;
  std::string saved_guard_;   // of a checkpoint, until prepare()
  std::vector<float> gradient_;
  std::vector<Scratch> scratch_;
  double squares_ = 0;                // of the last minibatch's gradient
  std::vector<uint32_t> order_;       // of the rows, or episodes, of all ranks
  std::vector<uint32_t> batch_rows_;  // of the present minibatch, this rank's
  std::vector<int64_t> batch_begin_;  // of episodes in it; empty: rows are on their own
  Whole whole_;
};

}  // namespace trimtab
