// Keys of `trainer:` for group-relative RL of a language model (GRPO and its relatives): how replies are sampled and rewarded, the
// seams they share with controllers (trainers/seams), and the fit.
#pragma once

#include <string>
#include <vector>

#include "engine/generation/generator.h"
#include "trainers/fit/guard.h"
#include "trainers/reward/shaping.h"
#include "trainers/seams/options.h"

namespace trimtab {

// What a reply gets beside being right.
struct ShapingBlock {
  std::string kind = "outcome";     // outcome, hierarchical
  double format = 0;                // for a well-formed reply
  double stop_properly = 1;         // factor on the reward of a reply that was cut off
  int64_t overlong_cache = 0;       // tokens before the limit over which the length costs up to 1
  bool filter_truncated = false;    // rows of replies that were cut off do not count
  double cost_share = 0;            // hierarchical: share of the reward that few tokens earn
  double budget_weight = 0.5, budget_softness = 0.25;   // of a budget that the prompt names
  void describe(Fields& f);
};

// A limit of its own for every prompt (difficulty-aware truncation).
struct DifficultyBlock {
  bool enabled = false;
  int64_t low = 16;
  double factor = 0.9, decay = 0.5;
  void describe(Fields& f);
};

// Rollouts that end at a number of tokens; what is not finished goes on under the next policy (C3PO++).
struct CarryOverBlock {
  int64_t tokens = 0, staleness = 4;
  void describe(Fields& f);
};

// Replies that branch: after a part of a reply several go on from it, and what they share is computed once in training.
struct TreeBlock {
  int64_t branches = 2, depth = 0;   // depth 0: replies are independent
  std::vector<double> at;            // one per level: a share of the reply's limit (below 1) or tokens; empty: evenly spaced
  std::string advantage = "reply";
  void describe(Fields& f);
  void validate() const;
  bool enabled() const { return depth > 0; }
  bool siblings() const { return enabled() && advantage == "sibling"; }
  int64_t leaves(int64_t levels) const;                        // branches^levels
  int64_t branching_point(int64_t level, int64_t limit) const;   // tokens, 1 to limit
};

// Rollouts that a thread of its own makes while the learner learns, with weights that are some updates old.
struct AsyncBlock {
  int64_t staleness = 0, threads = 1;
  void describe(Fields& f);
};

struct GroupOptions {
  int64_t steps = 0, prompts = 32, group_size = 8, prompt_pool = 0;
  SamplingOptions sampling;
  int64_t dynamic_sampling = 0, patience = 20;
  CarryOverBlock carry_over;
  AsyncBlock async;
  TreeBlock tree;
  ShapingBlock reward;
  DifficultyBlock difficulty;
  SeamOptions seams = SeamOptions::of_language();
  int64_t epochs = 1, minibatches = 2;
  double lr = 2e-4, max_grad_norm = 1;
  ScheduleBlock schedule;
  AdamBlock adam{.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0};
  GuardBlock guard;
  bool shared_prefix = true;
  std::string verify_shared_prefix = "first";
  int64_t token_budget = 8192, shards = 4;
  bool checkpoint_activations = false;

  void describe(Fields& f);
  void validate() const;
};

}  // namespace trimtab
