// RLtools' PPO on its own Pendulum, built against the headers of its PyPI wheel with the flags the wheel
// itself uses
// (-O3 -march=native -ffast-math and a BLAS). Worker of bench/harness.py: every "go" trains for --steps
// environment steps.
// --curve SEED instead prints the deterministic return of every fifth update of one run.
// The order of these decides which overloads RLtools' templates see.
// clang-format off
#include <rl_tools/operations/cpu_mux.h>
#include <rl_tools/rl/environments/pendulum/operations_cpu.h>
#include <rl_tools/nn/optimizers/adam/instance/operations_generic.h>
#include <rl_tools/nn/operations_cpu_mux.h>
#include <rl_tools/nn/layers/sample_and_squash/operations_generic.h>
#include <rl_tools/nn/layers/standardize/operations_generic.h>
#include <rl_tools/nn/layers/td3_sampling/operations_generic.h>
#include <rl_tools/nn_models/mlp_unconditional_stddev/operations_generic.h>
#include <rl_tools/nn_models/mlp/operations_generic.h>
#include <rl_tools/nn_models/sequential/operations_generic.h>
#include <rl_tools/nn/optimizers/adam/operations_generic.h>
#include <rl_tools/rl/algorithms/ppo/loop/core/config.h>
#include <rl_tools/rl/loop/steps/evaluation/config.h>
#include <rl_tools/rl/algorithms/ppo/loop/core/operations_generic.h>
#include <rl_tools/rl/loop/steps/evaluation/operations_generic.h>
// clang-format on

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace rlt = rl_tools;

using Device = rlt::devices::DEVICE_FACTORY<>;
using Rng = Device::SPEC::RANDOM::ENGINE<>;
using TI = Device::index_t;
using TypePolicy = rlt::numeric_types::Policy<float>;
using Pendulum = rlt::rl::environments::Pendulum<rlt::rl::environments::pendulum::Specification<float, TI>>;

// The hyper-parameters of the comparison: 8 environments x 256 steps, minibatch 64, 10 epochs, 2 x 64 tanh.
struct Parameters : rlt::rl::algorithms::ppo::loop::core::DefaultParameters<TypePolicy, TI, Pendulum> {
  static constexpr TI STEP_LIMIT = 1000000;
  static constexpr TI ACTOR_HIDDEN_DIM = 64, ACTOR_NUM_LAYERS = 3, CRITIC_HIDDEN_DIM = 64,
                      CRITIC_NUM_LAYERS = 3;
  static constexpr auto ACTOR_ACTIVATION_FUNCTION =
      rlt::nn::activation_functions::ActivationFunction::FAST_TANH;
  static constexpr auto CRITIC_ACTIVATION_FUNCTION =
      rlt::nn::activation_functions::ActivationFunction::FAST_TANH;
  static constexpr TI EPISODE_STEP_LIMIT = 200;
  static constexpr TI N_ENVIRONMENTS = 8, ON_POLICY_RUNNER_STEPS_PER_ENV = 256;
  static constexpr TI DATASET_SIZE = ON_POLICY_RUNNER_STEPS_PER_ENV * N_ENVIRONMENTS;
  static constexpr TI BATCH_SIZE = 64;
  struct PPO_PARAMETERS : rlt::rl::algorithms::ppo::DefaultParameters<TypePolicy, TI, BATCH_SIZE> {
    static constexpr float GAMMA = 0.9, LAMBDA = 0.95, EPSILON_CLIP = 0.2, INITIAL_ACTION_STD = 1.0;
    static constexpr float ACTION_ENTROPY_COEFFICIENT = 0;
    static constexpr TI N_EPOCHS = 10;
    static constexpr bool IGNORE_TERMINATION = false;
  };
  struct OPTIMIZER_PARAMETERS : rlt::nn::optimizers::adam::DEFAULT_PARAMETERS_TENSORFLOW<TypePolicy> {
    static constexpr float ALPHA = 1e-3;
  };
};
using CoreConfig = rlt::rl::algorithms::ppo::loop::core::Config<TypePolicy, TI, Rng, Pendulum, Parameters>;
constexpr TI kStepsPerUpdate = CoreConfig::ENVIRONMENT_STEPS_PER_LOOP_STEP;

template <typename Next>
struct EvaluationParameters : rlt::rl::loop::steps::evaluation::Parameters<TypePolicy, TI, Next> {
  static constexpr TI EVALUATION_INTERVAL = 5, NUM_EVALUATION_EPISODES = 50;
  static constexpr TI N_EVALUATIONS = 40;
};
using CurveConfig = rlt::rl::loop::steps::evaluation::Config<CoreConfig, EvaluationParameters<CoreConfig>>;

template <typename Config>
using StateOf = typename Config::template State<Config>;

template <typename Config>
std::unique_ptr<StateOf<Config>> make(Device& device, TI seed) {
  auto state = std::make_unique<StateOf<Config>>();
  rlt::malloc(device, *state);
  rlt::init(device, *state, seed);
  return state;
}

void print_curve(Device& device, TI seed) {
  auto state = make<CurveConfig>(device, seed);
  constexpr TI kInterval = CurveConfig::EVALUATION_PARAMETERS::EVALUATION_INTERVAL;
  std::string text;  // printed at the end: RLtools logs to standard output meanwhile
  for (TI k = 0; k < CurveConfig::EVALUATION_PARAMETERS::N_EVALUATIONS; ++k) {
    for (TI i = 0; i < kInterval; ++i) rlt::step(device, *state);
    const double mean = rlt::get(state->evaluation_results, 0, k).returns_mean;
    text += (k ? ", [" : "[") + std::to_string(k * kInterval * kStepsPerUpdate) + ", " +
            std::to_string(mean) + "]";
  }
  std::printf("\n{\"curve\": [%s]}\n", text.c_str());
}

int main(int argc, char** argv) {
  long steps = 200000, curve = -1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--steps")) steps = std::atol(argv[i + 1]);
    if (!std::strcmp(argv[i], "--curve")) curve = std::atol(argv[i + 1]);
  }
  Device device;
  rlt::init(device);
  if (curve >= 0) {
    print_curve(device, TI(curve));
    return 0;
  }
  auto state = make<CoreConfig>(device, 1);
  const long updates = (steps + kStepsPerUpdate - 1) / kStepsPerUpdate;
  rlt::step(device, *state);
  std::printf("{\"ready\": true}\n");
  std::fflush(stdout);
  char line[64];
  while (std::fgets(line, sizeof line, stdin)) {
    const auto begin = std::chrono::steady_clock::now();
    for (long i = 0; i < updates; ++i) rlt::step(device, *state);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("{\"rate\": %.1f}\n", double(updates * kStepsPerUpdate) / seconds);
    std::fflush(stdout);
  }
}
