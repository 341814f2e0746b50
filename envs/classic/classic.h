// CartPole and Pendulum as Gymnasium 1.x defines them (CartPole-v1, Pendulum-v1); tests/oracle compares step
// by step.
#pragma once

#include <memory>

#include "core/options.h"
#include "envs/classic/classic_batch.h"

namespace trimtab {

struct CartPoleOptions {
  int64_t time_limit = 500;
  void describe(Fields& f) {
    f.integer("time_limit", time_limit,
              {.low = 1, .high = 1e9, .unit = "steps", .doc = "an episode is truncated after so many steps"});
  }
};

struct PendulumOptions {
  int64_t time_limit = 200;
  void describe(Fields& f) {
    f.integer("time_limit", time_limit,
              {.low = 1, .high = 1e9, .unit = "steps", .doc = "an episode is truncated after so many steps"});
  }
};

// State variables: cart position, cart velocity, pole angle, pole angular velocity.
std::unique_ptr<ClassicBatch> make_cartpole(const CartPoleOptions& options, int64_t size);
// State variables: angle (0 is upright), angular velocity.
std::unique_ptr<ClassicBatch> make_pendulum(const PendulumOptions& options, int64_t size);

}  // namespace trimtab
