// Every key of `trainer:` for the on-policy policy-gradient learner of controllers: those it shares with
// language models (seams/options.h) and its own. A preset fills some of them (presets.cpp).
#pragma once

#include <cstdint>
#include <string>

#include "core/options.h"
#include "trainers/fit/guard.h"
#include "trainers/fit/value_loss.h"
#include "trainers/reward/reward.h"
#include "trainers/seams/options.h"
#include "trainers/seams/preset.h"

namespace trimtab {

struct ValueBlock {
  std::string loss = "mse";
  double huber_delta = 10, clip_range = 0, coef = 1, decay = 0.99;
  bool normalise = false;
  void describe(Fields& f);
  ValueLossOptions options() const;
};
struct TrainerOptions : SeamOptions {
  // sampling
  int64_t steps = 0, num_envs = 8, horizon = 2048, group_size = 1, shards = 4, worlds = 0;
  // reward
  RewardOptions reward;
  // advantage
  std::string critic = "central", group_score = "to_go";
  double gamma = 0.99, lambda = 0.95;
  // ratio
  bool sequential = false;
  // fit
  ValueBlock value;
  double target_kl = 0;
  double lr = 3e-4, critic_lr = 0, max_grad_norm = 0.5;
  ScheduleBlock schedule;
  AdamBlock adam;
  GuardBlock guard;
  int64_t epochs = 10, minibatches = 1, minibatch_size = 0;

  void describe(Fields& f);
  void validate() const;
  bool has_critic() const { return critic != "none"; }
  int64_t num_minibatches(int64_t rows) const;
};

}  // namespace trimtab
