// Learn2PD's filter (arXiv 2509.25188): logistic regression from the confidences of a block, committed positions being 1, to whether each
// proposal in it is the token finally there; those it is at least 96 % sure of are committed.
//
// Theirs is one linear layer for a block of 32, fitted with AdamW at 3e-3 over the whole batch; so is this one. Differences: the loss counts masked
// positions with a known label alone (committed ones are no decision), validation has files of its own instead of a tenth of the samples, the
// checkpoint is the one of least validation loss, and there are fewer epochs (theirs: 40 000). Their prediction of the answer's end is left out.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/diffusion/commit_control.h"
#include "envs/token_commit/traces.h"

namespace trimtab {

inline constexpr double kLearn2PdThreshold = 0.96;

struct Learn2PdFilter {
  int64_t block = 32;            // B
  std::vector<float> weight;     // [B, B]: from confidences (rows) to logits
  std::vector<float> bias;       // [B]

  // DataError naming file, tensor and cure.
  static Learn2PdFilter load(const std::filesystem::path& file);
  void save(const std::filesystem::path& file) const;
  void logits(const float* confidences, float* out) const;   // [B] each
};

struct Learn2PdOptions {
  int64_t block = 32, epochs = 1000;
  double learning_rate = 3e-3, weight_decay = 0.01;   // AdamW
  void validate() const;                              // ConfigError
};
struct Learn2PdEpoch {
  int64_t epoch = 0;
  double train = 0, validation = 0;   // loss
  bool best = false;                  // so far
};

// From zero weights and without draws: equal files, options and processor give equal filters. Told of some forty of the epochs, those where
// validation is asked. DataError without a labelled proposal, RunError for a loss that is not finite.
Learn2PdFilter fit_learn2pd(const CommitTraceReader& train, const CommitTraceReader& validation, const Learn2PdOptions& options,
                            const std::function<void(const Learn2PdEpoch&)>& progress = {});

// Blocks of B positions from the window's begin on; a position that is committed, or behind the answer, has confidence 1, one that is masked but
// not of the window 0. Where nothing reaches the threshold the likeliest is committed, endings that wait last.
std::unique_ptr<CommitControl> make_learn2pd(std::shared_ptr<const Learn2PdFilter> filter, double threshold = kLearn2PdThreshold);

// Confidences of every block of the window, [blocks * B].
std::vector<float> block_confidences(const CommitState& state, int64_t block);

}  // namespace trimtab
