// Every key of `trainer:` for the on-policy policy-gradient learner. A preset fills some of them
// (presets.cpp).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/options.h"
#include "trainers/advantage/advantage.h"
#include "trainers/aggregation/aggregation.h"
#include "trainers/fit/adam.h"
#include "trainers/fit/schedule.h"
#include "trainers/fit/value_loss.h"
#include "trainers/ratio/policy_loss.h"
#include "trainers/reward/reward.h"

namespace trimtab {

struct ClipBlock {
  std::string kind = "symmetric";
  double low = 0.2, high = 0.2, dual = 3.0;
  void describe(Fields& f);
  ClipOptions options() const;
};
struct ScheduleBlock {
  std::string kind = "constant";
  double end = 0, warmup = 0;
  void describe(Fields& f);
  double at(double start, double progress) const;  // progress through the phase, 0 to 1
};
struct ValueBlock {
  std::string loss = "mse";
  double huber_delta = 10, clip_range = 0, coef = 1, decay = 0.99;
  bool normalise = false;
  void describe(Fields& f);
  ValueLossOptions options() const;
};
struct AdamBlock {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-5, weight_decay = 0;
  void describe(Fields& f);
  AdamOptions options() const { return {beta1, beta2, epsilon, weight_decay}; }
};

struct TrainerOptions {
  // sampling
  int64_t steps = 0, num_envs = 8, horizon = 2048, group_size = 1, shards = 4;
  // reward
  RewardOptions reward;
  // advantage
  std::string critic = "central", advantage = "gae", normalise_advantage = "minibatch";
  double gamma = 0.99, lambda = 0.95;
  // ratio, clip, aggregation
  ClipBlock clip;
  std::string aggregation = "row_mean";
  double aggregation_constant = 1;
  bool sequential = false;
  // fit
  ValueBlock value;
  double entropy = 0, kl_coef = 0, target_kl = 0;
  double lr = 3e-4, critic_lr = 0, max_grad_norm = 0.5;
  ScheduleBlock schedule;
  AdamBlock adam;
  int64_t epochs = 10, minibatches = 1, minibatch_size = 0;

  void describe(Fields& f);
  void validate() const;
  bool has_critic() const { return critic != "none"; }
  bool grouped() const { return advantage != "gae"; }
  GroupBaseline group_baseline() const;
  Aggregation aggregation_kind() const;
  int64_t num_minibatches(int64_t rows) const;
};

// A preset is a few lines of YAML over TrainerOptions: TT_REGISTER(TrainerPreset, ppo, {.name = "ppo", .doc =
// ..., .yaml = ...}).
struct TrainerPreset {
  std::string name, doc, yaml;
};

}  // namespace trimtab
