// CartPole and Pendulum against trajectories of Gymnasium itself (golden/gymnasium.json, made by
// golden/make_gymnasium.py).
//
// Step by step from Gymnasium's own state, so that the unstable pole does not amplify rounding: state
// variables agree to 1e-12. Then open loop over the first steps. Observations are compared as the float32
// numbers both hand out.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/files.h"
#include "envs/classic/classic.h"

namespace trimtab {
namespace {

constexpr double kStepTolerance = 1e-12;     // absolute and relative, one step in float64
constexpr double kOpenLoopTolerance = 1e-9;  // after kOpenLoopSteps steps without correction
constexpr size_t kOpenLoopSteps = 40;        // the pole's error grows by e^4 per second, 0.8 s here
constexpr size_t kInstances = 11;            // not a whole number of vectors; the middle one is compared
constexpr size_t kCompared = 9;

const nlohmann::json& golden() {
  static const nlohmann::json json =
      nlohmann::json::parse(read_file(TRIMTAB_SOURCE_DIR "/tests/oracle/golden/gymnasium.json"));
  return json;
}

struct Bench {
  std::unique_ptr<ClassicBatch> env;
  std::vector<float> observation, action, reward, terms;
  std::vector<uint8_t> terminated, truncated;

  explicit Bench(std::unique_ptr<ClassicBatch> e)
      : env(std::move(e)),
        observation(kInstances * env->spec().critic.context_size()),
        action(kInstances),
        reward(kInstances),
        terms(kInstances),
        terminated(kInstances),
        truncated(kInstances) {
    std::vector<WorldKey> keys(kInstances);
    for (size_t i = 0; i < kInstances; ++i) keys[i] = {7, i};
    env->reset(keys, kInstances);
  }
  void step(float a) {
    std::fill(action.begin(), action.end(), a);
    env->act(0, action.data());
    env->step({reward.data(), terms.data(), terminated.data(), truncated.data(), {}});
  }
};

void expect_close(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                  size_t t) {
  for (size_t v = 0; v < want.size(); ++v) {
    EXPECT_NEAR(got[v], want[v], tolerance * (1 + std::abs(want[v]))) << "step " << t << ", variable " << v;
  }
}

void compare_steps(Bench bench, const nlohmann::json& episode, int64_t limit) {
  const auto states = episode.at("state").get<std::vector<std::vector<double>>>();
  const auto observations = episode.at("observation").get<std::vector<std::vector<double>>>();
  const auto actions = episode.at("action").get<std::vector<double>>();
  const int width = bench.env->spec().critic.context_size();
  for (size_t t = 0; t < actions.size(); ++t) {
    bench.env->set_state(kCompared, states[t]);
    bench.env->observe(0, {bench.observation.data(), nullptr, nullptr});
    for (int k = 0; k < width; ++k) {
      EXPECT_NEAR(bench.observation[kCompared * width + k], observations[t][k],
                  1.2e-7 * (1 + std::abs(observations[t][k])));
    }
    bench.step(static_cast<float>(actions[t]));
    const double reward = episode.at("reward")[t].get<double>();
    EXPECT_NEAR(bench.reward[kCompared], reward, 1.2e-7 * (1 + std::abs(reward))) << "step " << t;
    const bool terminated = episode.at("terminated")[t].get<bool>();
    EXPECT_EQ(bench.terminated[kCompared] != 0, terminated) << "step " << t;
    // Ends are followed by a new episode at once; the state after them is gone.
    if (!terminated && t + 1 < static_cast<size_t>(limit)) {
      expect_close(bench.env->state(kCompared), states[t + 1], kStepTolerance, t);
    }
  }
}

void compare_open_loop(Bench bench, const nlohmann::json& episode) {
  const auto states = episode.at("state").get<std::vector<std::vector<double>>>();
  const auto actions = episode.at("action").get<std::vector<double>>();
  bench.env->set_state(kCompared, states[0]);
  for (size_t t = 0; t + 1 < std::min(actions.size(), kOpenLoopSteps); ++t) {
    bench.step(static_cast<float>(actions[t]));
    expect_close(bench.env->state(kCompared), states[t + 1], kOpenLoopTolerance, t);
  }
}

TEST(Gymnasium, CartPoleStepByStep) {
  for (const nlohmann::json& episode : golden().at("cartpole"))
    compare_steps(Bench(make_cartpole({}, kInstances)), episode, 500);
}
TEST(Gymnasium, CartPoleOpenLoop) {
  for (const nlohmann::json& episode : golden().at("cartpole"))
    compare_open_loop(Bench(make_cartpole({}, kInstances)), episode);
}
TEST(Gymnasium, PendulumStepByStep) {
  for (const nlohmann::json& episode : golden().at("pendulum"))
    compare_steps(Bench(make_pendulum({}, kInstances)), episode, 200);
}
TEST(Gymnasium, PendulumOpenLoop) {
  for (const nlohmann::json& episode : golden().at("pendulum"))
    compare_open_loop(Bench(make_pendulum({}, kInstances)), episode);
}

// The time limit truncates exactly where Gymnasium's does.
TEST(Gymnasium, TimeLimits) {
  const auto ends = [](const nlohmann::json& episode) {
    return episode.at("truncated").get<std::vector<bool>>();
  };
  const std::vector<bool> cartpole = ends(golden().at("cartpole")[0]),
                          pendulum = ends(golden().at("pendulum")[0]);
  ASSERT_EQ(cartpole.size(), 500u);
  EXPECT_TRUE(cartpole.back());
  Bench bench(make_pendulum({}, kInstances));
  for (size_t t = 0; t < pendulum.size(); ++t) {
    bench.step(0);
    EXPECT_EQ(bench.truncated[kCompared] != 0, pendulum[t]) << "step " << t;
  }
}

}  // namespace
}  // namespace trimtab
