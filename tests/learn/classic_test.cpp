// CartPole and Pendulum to a score, several seeds. Acting at random gets about 22 and -1200.
#include "tests/training_support.h"

namespace trimtab {
namespace {

// Larger steps and batches than configs/cartpole_ppo.yaml: solved within 100,000 steps.
constexpr char kCartPole[] = R"(
run: {name: cartpole, threads: 2}
env: {type: cartpole}
policy:
  cart: {normalise_observations: false}
  critic: {normalise_observations: false}
trainer: {preset: ppo, steps: 160k, num_envs: 32, horizon: 128, minibatch_size: 256, epochs: 10, lr: 1e-3, gamma: 0.98,
          lambda: 0.9, schedule: {kind: linear}}
eval: {every: 10M, episodes: 32}
)";
constexpr char kPendulum[] = R"(
run: {name: pendulum, threads: 2}
env: {type: pendulum}
policy: {torque: {init_log_std: 0.5}}
trainer: {preset: ppo, steps: 250k, num_envs: 16, horizon: 256, minibatch_size: 256, epochs: 10, lr: 1e-3, gamma: 0.9,
          value: {normalise: true, coef: 1}, schedule: {kind: linear, end: 0.1}}
eval: {every: 10M, episodes: 64}
)";

void expect_learns(const std::string& yaml, double bar) {
  const TemporaryFolder random;
  EXPECT_LT(train_in(random.path(), yaml, {"trainer.lr=0", "trainer.steps=8k"}).last.at("train/return"), bar);
  for (const int seed : {1, 2, 3}) {
    const TemporaryFolder folder;
    const TestRun run = train_in(folder.path(), yaml, {"run.seed=" + std::to_string(seed)});
    EXPECT_GE(run.last.at("eval/return"), bar) << "seed " << seed;
  }
}

TEST(Learn, CartPole) { expect_learns(kCartPole, 450); }
TEST(Learn, Pendulum) { expect_learns(kPendulum, -250); }

}  // namespace
}  // namespace trimtab
