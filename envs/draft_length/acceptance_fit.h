// Fits an acceptance head (acceptance_head.h) to recorded drafts. The target of a token is the soft label p = min(1, p / q) that was recorded; the loss
//
//   sum of w (1 - p) (-ln q_rejected) + p (-ln q_accepted),  over  w sum(1 - p) + sum p,
//
// with w = 6 weighs rejections up (SpecDec++, arXiv 2405.19715). So the head's a is p / (p + w (1 - p)), below p: thresholds on the risk go with the weight.
// Adam, the learning rate warmed up over 3 % of the steps and lowered along a cosine. Every choice is a keyed draw: equal files, options and
// processor give equal heads.
#pragma once

#include <functional>
#include <string>

#include "envs/draft_length/acceptance_head.h"
#include "envs/draft_length/source.h"

namespace trimtab {

struct AcceptanceFitOptions {
  std::string features = "hidden";   // all: the token's and the round's numbers too
  int64_t blocks = 3;
  bool share = true;
  double weight = 6, learning_rate = 1e-3;
  int64_t epochs = 3, batch = 512;   // tokens of a step
  uint64_t seed = 1;
  void validate() const;             // ConfigError
};
struct AcceptanceEpoch {
  int64_t epoch = 0;
  double train = 0, validation = 0;   // loss; train: of the steps as they were made
};

// Tokens that a round could draft: every position and depth with the rest of the text long enough. DataError without hidden states, or where
// train and validation differ.
AcceptanceHead fit_acceptance(const DraftSource& train, const DraftSource& validation, const AcceptanceFitOptions& options,
                              const std::function<void(const AcceptanceEpoch&)>& progress = {});
double acceptance_loss(const AcceptanceHead& head, const DraftSource& source, double weight);

// The loss of some tokens, with its derivatives by the logits [rows, 2] unless null.
double acceptance_loss(std::span<const float> logits, std::span<const float> accept, double weight, float* d_logits);

}  // namespace trimtab
