// Keys, ranges and cross-field rules of the policy-gradient learner.
#include "trainers/policy_gradient/options.h"

#include <algorithm>

#include "core/error.h"

namespace trimtab {

void ClipBlock::describe(Fields& f) {
  f.choice("kind", kind, {"none", "symmetric", "asymmetric", "dual"},
           "bound of the probability ratio: symmetric uses low on both sides, dual also bounds the loss of "
           "bad actions");
  f.number("low", low, {.low = 0, .high = 1, .doc = "the ratio is kept above 1 - low"});
  f.number("high", high, {.low = 0, .doc = "the ratio is kept below 1 + high (asymmetric, dual)"});
  f.number("dual", dual, {.low = 1, .doc = "largest ratio that counts for a negative advantage (dual)"});
}

ClipOptions ClipBlock::options() const {
  const ClipKind k = kind == "none"         ? ClipKind::kNone
                     : kind == "asymmetric" ? ClipKind::kAsymmetric
                     : kind == "dual"       ? ClipKind::kDual
                                            : ClipKind::kSymmetric;
  return {k, low, high, dual};
}

void ScheduleBlock::describe(Fields& f) {
  f.choice("kind", kind, {"constant", "linear", "cosine"}, "how the step size moves over a phase");
  f.number("end", end, {.low = 0, .high = 1, .doc = "last step size as a share of lr (linear, cosine)"});
  f.number("warmup", warmup,
           {.low = 0, .high = 0.9, .doc = "share of the phase over which the step size rises from 0"});
}

double ScheduleBlock::at(double start, double progress) const {
  const Schedule k = kind == "linear"   ? Schedule::kLinear
                     : kind == "cosine" ? Schedule::kCosine
                                        : Schedule::kConstant;
  return scheduled(k, start, start * end, warmup, progress);
}

void ValueBlock::describe(Fields& f) {
  f.choice("loss", loss, {"mse", "huber"}, "loss of the value function");
  f.number("huber_delta", huber_delta, {.low = 1e-6, .doc = "error beyond which the Huber loss is linear"});
  f.number("clip_range", clip_range,
           {.low = 0, .doc = "largest move of a value per update that counts; 0: any"});
  f.number("coef", coef, {.low = 0, .doc = "weight of the value loss (matters through max_grad_norm alone)"});
  f.flag("normalise", normalise, "learn returns in units of their running mean and deviation");
  f.number("decay", decay, {.low = 0, .high = 0.99999, .doc = "weight of the past in those, per update"});
}

ValueLossOptions ValueBlock::options() const { return {loss == "huber", huber_delta, clip_range, coef}; }

void AdamBlock::describe(Fields& f) {
  f.number("beta1", beta1, {.low = 0, .high = 0.99999, .doc = "decay of the first moment"});
  f.number("beta2", beta2, {.low = 0, .high = 0.999999, .doc = "decay of the second moment"});
  f.number("epsilon", epsilon, {.low = 1e-12, .high = 1, .doc = "added to the root of the second moment"});
  f.number("weight_decay", weight_decay,
           {.low = 0, .high = 1, .doc = "decoupled weight decay, times the step size"});
}

void TrainerOptions::describe(Fields& f) {
  f.integer("steps", steps,
            {.low = 0,
             .high = 1e15,
             .unit = "steps",
             .doc = "environment steps to train for, when there are no phases"});
  f.integer("num_envs", num_envs,
            {.low = 1, .high = 1e6, .doc = "instances of the environment stepped together"});
  f.integer(
      "horizon", horizon,
      {.low = 0, .high = 1e7, .unit = "steps", .doc = "steps per instance and update; 0: a whole episode"});
  f.integer("group_size", group_size,
            {.low = 1, .high = 1e5, .doc = "instances that share a world (group advantages)"});
  f.integer("shards", shards,
            {.low = 1,
             .high = 1024,
             .doc = "logical parts of a rollout: part of the result, the number of threads is not"});
  f.block("reward", reward, "from reward terms to the reward");
  f.choice("critic", critic, {"central", "local", "none"},
           "value function over the privileged view, over each agent's view, or none");
  f.choice("advantage", advantage, {"gae", "group_mean", "group_mean_std", "leave_one_out", "none"},
           "how advantages are made; all but gae compare reward-to-go within a group");
  f.choice("normalise_advantage", normalise_advantage, {"minibatch", "batch", "none"},
           "where advantages get mean 0 and deviation 1");
  f.number("gamma", gamma, {.low = 0, .high = 1, .doc = "discount per step"});
  f.number("lambda", lambda, {.low = 0, .high = 1, .doc = "decay of the generalised advantage estimate"});
  f.block("clip", clip, "bound of the probability ratio");
  f.choice("aggregation", aggregation, {"row_mean", "episode_mean", "constant", "group_mean"},
           "what counts alike in the loss: rows, episodes, episodes over a constant length, groups");
  f.number("aggregation_constant", aggregation_constant,
           {.low = 1e-9, .unit = "steps", .doc = "the constant length (constant)"});
  f.flag("sequential", sequential,
         "update agents one after the other, weighted by the ratios of those before (HAPPO)");
  f.block("value", value, "the value function's fit");
  f.number("entropy", entropy, {.low = 0, .doc = "weight of the entropy bonus"});
  f.number("kl_coef", kl_coef, {.low = 0, .doc = "weight of the divergence from the sampling policy"});
  f.number("target_kl", target_kl,
           {.low = 0, .doc = "stop an agent's epochs when the divergence passes 1.5 times this; 0: never"});
  f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size of the policies"});
  f.number("critic_lr", critic_lr, {.low = 0, .high = 1, .doc = "step size of the critics; 0: lr"});
  f.number("max_grad_norm", max_grad_norm, {.low = 0, .doc = "largest gradient norm of one network; 0: any"});
  f.block("schedule", schedule, "the step size over a phase");
  f.block("adam", adam, "the optimiser");
  f.integer("epochs", epochs, {.low = 1, .high = 1000, .doc = "passes over a rollout"});
  f.integer("minibatches", minibatches, {.low = 1, .high = 1e6, .doc = "parts of a rollout per pass"});
  f.integer("minibatch_size", minibatch_size,
            {.low = 0, .high = 1e9, .unit = "rows", .doc = "rows per part; 0: use minibatches"});
}

void TrainerOptions::validate() const {
  if (grouped() && has_critic()) {
    throw ConfigError(
        fmt::format("advantage '{}' has no use for a critic; set critic: none or advantage: gae", advantage));
  }
  if (!grouped() && !has_critic()) {
    throw ConfigError("advantage 'gae' needs a critic; set critic: central (or local), or a group advantage");
  }
  if (grouped() && advantage != "none" && group_size < 2) {
    throw ConfigError(
        fmt::format("advantage '{}' compares members of a group; set group_size to 2 or more", advantage));
  }
  if (num_envs % group_size != 0) {
    throw ConfigError(fmt::format("num_envs {} is not a multiple of group_size {}", num_envs, group_size));
  }
  if (!grouped() && group_size != 1) {
    throw ConfigError("group_size is for group advantages; with advantage: gae leave it at 1");
  }
}

GroupBaseline TrainerOptions::group_baseline() const {
  if (advantage == "group_mean") return GroupBaseline::kMean;
  if (advantage == "group_mean_std") return GroupBaseline::kMeanStd;
  if (advantage == "leave_one_out") return GroupBaseline::kLeaveOneOut;
  return GroupBaseline::kNone;
}

Aggregation TrainerOptions::aggregation_kind() const {
  if (aggregation == "episode_mean") return Aggregation::kSequenceMean;
  if (aggregation == "constant") return Aggregation::kConstant;
  if (aggregation == "group_mean") return Aggregation::kPromptMean;
  return Aggregation::kTokenMean;
}

int64_t TrainerOptions::num_minibatches(int64_t rows) const {
  const int64_t wanted = minibatch_size > 0 ? rows / minibatch_size : minibatches;
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(rows, 1));
}

}  // namespace trimtab
