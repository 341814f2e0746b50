// Keys, ranges and cross-field rules of the policy-gradient learner.
#include "trainers/policy_gradient/options.h"

#include <algorithm>

#include "core/error.h"

namespace trimtab {

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

void TrainerOptions::describe(Fields& f) {
  f.integer("steps", steps,
            {.low = 0,
             .high = 1e15,
             .unit = "steps",
             .doc = "environment steps to train for, when there are no phases"});
  f.integer("num_envs", num_envs,
            {.low = 1, .high = 1e6, .doc = "instances of the environment stepped together, by all ranks"});
  f.integer(
      "horizon", horizon,
      {.low = 0, .high = 1e7, .unit = "steps", .doc = "steps per instance and update; 0: a whole episode"});
  f.integer("group_size", group_size,
            {.low = 1, .high = 1e5, .doc = "instances that share a world (group advantages)"});
  f.integer("worlds", worlds,
            {.low = 0,
             .high = 1e15,
             .doc = "different worlds of the groups, taken in turn; 0: every update has new ones"});
  f.integer("shards", shards,
            {.low = 1,
             .high = 1024,
             .doc = "logical parts of a rollout: part of the result, the number of threads is not"});
  f.block("reward", reward, "from reward terms to the reward");
  f.choice("critic", critic, {"central", "local", "none"},
           "value function over the privileged view, over each agent's view, or none");
  describe_advantage(f, true);
  f.choice("group_score", group_score, {"to_go", "return"},
           "what members of a group are compared by: at each step the reward from there on, or the whole "
           "episode's for all its steps");
  f.number("gamma", gamma, {.low = 0, .high = 1, .doc = "discount per step"});
  f.number("lambda", lambda, {.low = 0, .high = 1, .doc = "decay of the generalised advantage estimate"});
  describe_ratio(f);
  describe_aggregation(f);
  f.flag("sequential", sequential,
         "update agents one after the other, weighted by the ratios of those before (HAPPO)");
  f.block("value", value, "the value function's fit");
  describe_coefficients(f);
  f.number("target_kl", target_kl,
           {.low = 0, .doc = "stop an agent's epochs when the divergence passes 1.5 times this; 0: never"});
  f.number("lr", lr, {.low = 0, .high = 1, .doc = "step size of the policies"});
  f.number("critic_lr", critic_lr, {.low = 0, .high = 1, .doc = "step size of the critics; 0: lr"});
  f.number("max_grad_norm", max_grad_norm, {.low = 0, .doc = "largest gradient norm of one network; 0: any"});
  f.block("schedule", schedule, "the step size over a phase");
  f.block("adam", adam, "the optimiser");
  f.block("guard", guard, "bad numbers and spikes");
  f.integer("epochs", epochs, {.low = 1, .high = 1000, .doc = "passes over a rollout"});
  f.integer("minibatches", minibatches, {.low = 1, .high = 1e6, .doc = "parts of a rollout per pass"});
  f.integer("minibatch_size", minibatch_size,
            {.low = 0, .high = 1e9, .unit = "rows", .doc = "rows per part; 0: use minibatches"});
}

void TrainerOptions::validate() const {
  if ((grouped() || labelled()) && has_critic()) {
    throw ConfigError(
        fmt::format("advantage '{}' has no use for a critic; set critic: none or advantage: gae", advantage));
  }
  if (labelled() && (ratio != "none" || normalise_advantage != "none")) {
    throw ConfigError("advantage 'labels' is the cross-entropy: set ratio: none and normalise_advantage: none");
  }
  if (!grouped() && !labelled() && !has_critic()) {
    throw ConfigError("advantage 'gae' needs a critic; set critic: central (or local), or a group advantage");
  }
  if (needs_group() && group_size < 2) {
    throw ConfigError(
        fmt::format("advantage '{}' compares members of a group; set group_size to 2 or more", advantage));
  }
  if (num_envs % group_size != 0) {
    throw ConfigError(fmt::format("num_envs {} is not a multiple of group_size {}", num_envs, group_size));
  }
  if (!grouped() && group_size != 1) {
    throw ConfigError("group_size is for group advantages; with advantage: gae leave it at 1");
  }
  if (!grouped() && worlds != 0) {
    throw ConfigError(
        "worlds is for group advantages; with advantage: gae an episode begins where one ended");
  }
  if (smooth() && worlds == 0) {
    throw ConfigError("advantage 'smooth' remembers worlds it meets again; set worlds to how many there are");
  }
  if (smooth() && group_score != "return") {
    throw ConfigError("advantage 'smooth' keeps one score per world; set group_score: return");
  }
  validate_ratio();
  if (ratio != "token" && ratio != "none" && !grouped()) {
    throw ConfigError(fmt::format("ratio '{}' is of whole episodes; it needs a group advantage", ratio));
  }
}

int64_t TrainerOptions::num_minibatches(int64_t rows) const {
  const int64_t wanted = minibatch_size > 0 ? rows / minibatch_size : minibatches;
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(rows, 1));
}

}  // namespace trimtab
