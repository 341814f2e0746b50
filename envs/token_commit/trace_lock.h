// A controller of token commitment fitted to recorded traces (traces.h), after TraceLock (arXiv 2605.24697): a small network over the masked positions
// of the window says how likely each proposal is to be stable, and those above a threshold are committed.
//
// The loss is theirs: binary cross-entropy on decision logits, weighted and divided by the sum of weights,
//
//   w = 2 for an unstable proposal; for a stable one 1 at the first mask shown, falling linearly with the position to 0.5 at the last;
//   proposals that end the answer share a weight of 1 in their sample, whatever their labels;
//
// on prefixes of the window drawn anew in every epoch: a share U(0.25, 1) of the positions from the first mask to the last one shown, and the whole
// window where the prefix holds no stable word. The checkpoint is the one of highest F0.5 on validation at `threshold`, over proposals that are
// words, in whole windows.
//
// What differs. Their network (384 wide, 5 layers, on compressed hidden states) is fitted at a rate of 1e-4 over 36 000 steps with dropout; ours is a set network
// of two small layers on features.h. Theirs subtracts a threshold that depends on the sequence from every logit and adds 1e-3 of its mean square to
// the loss. Here the part of the last layer that reads context and pooled items is that threshold: it is one number for all items of a decision. The
// network does not hand it out alone, so what is regularised is the mean score of a decision's items, threshold and mean of the items' own parts together.
// Theirs commits four tokens a pass at most, and at least what the diffusion schedule asks for: env.most and env.planned (options.h) do that, neither by default.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/spec.h"
#include "envs/token_commit/features.h"
#include "envs/token_commit/traces.h"
#include "policies/controllers/controller.h"

namespace trimtab {

struct TraceLockOptions {
  std::vector<int64_t> hidden = {32, 64};
  int64_t attention = 4;                     // heads between hidden layers; 0: items see each other through their mean alone
  CommitViewOptions view;                    // what it is shown; hidden_size is that of the traces
  int64_t epochs = 20, batch = 64;           // samples of a step: passes
  double learning_rate = 1e-3, weight_decay = 0.01, clip = 1;
  int64_t plateau = 4, patience = 8;         // epochs without a better F0.5, after which the rate is halved, and the fit ends
  double threshold = 0.9;                    // theirs: 0.99
  uint64_t seed = 1;
  void validate() const;                     // ConfigError
};
struct CommitScores {
  double precision = 0, recall = 0, f05 = 0;   // of commits against stability; 0 without commits or stable proposals
};
CommitScores commit_scores(int64_t stable_commits, int64_t commits, int64_t stable);
struct TraceLockEpoch {
  int64_t epoch = 0;
  double train = 0, validation = 0;            // loss; train: of the steps as they were made; validation: of words, without the regulariser
  CommitScores scores;                         // on validation
  double learning_rate = 0;
  bool best = false;                           // so far
};

// A fitted controller with what it must be shown.
struct TraceLock {
  CommitViewOptions view;
  double threshold = 0.9;
  AgentSpec agent;
  std::unique_ptr<Controller> policy;
};

// DataError where train and validation differ, where hidden states are asked of traces without them, or where no proposal has a label; RunError
// for a loss that is not finite. Every choice is a keyed draw: equal files, options and processor give equal controllers.
TraceLock fit_trace_lock(const CommitTraceReader& train, const CommitTraceReader& validation, const TraceLockOptions& options,
                         const std::function<void(const TraceLockEpoch&)>& progress = {});

// Commits what is at least as likely as the threshold; else the likeliest, endings that wait last. Of a longer window the items shown alone.
std::unique_ptr<CommitControl> make_trace_lock_control(std::shared_ptr<const TraceLock> lock, double threshold);

// An artefact of the runtime, read back by it at once, and the same as a C header unless `header` is empty (policies/controllers/export.h). The agent
// is "commit"; the config is an env block of token_commit with the keys items, projected and threshold, so `trimtab eval FILE env.model=RUN` decodes
// with it.
void export_trace_lock(const std::filesystem::path& file, const std::filesystem::path& header, const TraceLock& lock, const std::string& training_data_hash = "");

// The parts of the loss.
struct CommitTarget {
  float label = 0, weight = 0;   // weight 0: unknown
};
// Of the positions shown, with the token finally at each.
std::vector<CommitTarget> commit_targets(std::span<const MaskedPosition> shown, std::span<const int32_t> final_tokens);
// The same state with a window that ends early: behind `share` of the positions from the first mask to that of the last item shown, at least one.
CommitState prefix_of(const CommitState& state, int64_t shown, double share);
// logits, mask and targets are [decisions, items]; d_logits too, unless null.
double trace_lock_loss(int64_t decisions, int64_t items, const float* logits, const uint8_t* mask, const CommitTarget* targets, float* d_logits);

}  // namespace trimtab
