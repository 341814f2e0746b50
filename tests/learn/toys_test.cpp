// Learning to known optima on small problems, several seeds each. Every bar is one that acting at random
// fails.
#include <algorithm>

#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr int kSeeds = 3;

std::string toy(const std::string& type, const std::string& trainer) {
  return "run: {name: toy, threads: 2}\nenv: {type: " + type +
         "}\npolicy: {critic: {hidden: [32]}}\n"
         "trainer: {" +
         trainer + "}\neval: {episodes: 256}\n";
}

// Trains with several seeds and returns the worst of the final evaluations.
double worst_return(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  register_toys();
  double worst = 1e9;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    const TemporaryFolder folder;
    std::vector<std::string> all = overrides;
    all.push_back("run.seed=" + std::to_string(seed));
    worst = std::min(worst, train_in(folder.path(), yaml, all).last.at("eval/return"));
  }
  return worst;
}

// What a policy that has learned nothing gets: one update with a step size of nothing, exploring.
double random_return(const std::string& yaml) {
  register_toys();
  const TemporaryFolder folder;
  return train_in(folder.path(), yaml, {"trainer.lr=0", "trainer.steps=1"}).last.at("train/return");
}

const char* const kPpo =
    "preset: ppo, steps: 40k, num_envs: 32, horizon: 32, minibatch_size: 256, epochs: 4, lr: 3e-3, entropy: "
    "0.003";

TEST(Learn, BanditFindsTheBestArm) {
  const std::string yaml = toy("toy_bandit", std::string(kPpo) + ", gamma: 1");
  const double bar = 0.99 * Bandit::kBest;
  EXPECT_LT(random_return(yaml), bar);
  EXPECT_GE(worst_return(yaml), bar);
}

TEST(Learn, ChainReachesTheOptimumOfBackwardInduction) {
  const std::string yaml = toy("toy_chain", std::string(kPpo) + ", gamma: 0.99");
  ASSERT_NEAR(Chain::best_return(), 6.0, 1e-9);
  const double bar = 0.99 * Chain::best_return();
  EXPECT_LT(random_return(yaml), 0.5 * bar);
  EXPECT_GE(worst_return(yaml), bar);
}

TEST(Learn, AllocationFindsTheOptimalShares) {
  constexpr double kBar = -0.02;  // mean KL from the optimal shares; equal shares have about 0.2
  const std::string base = std::string(kPpo) + ", gamma: 1";
  for (const char* head : {"softmax_gaussian", "dirichlet"}) {
    const std::string yaml = toy("toy_allocation", base);
    const std::vector<std::string> overrides = {std::string("policy.allocator.head=") + head,
                                                "trainer.steps=120k"};
    EXPECT_LT(random_return(yaml), 5 * kBar);
    EXPECT_GE(worst_return(yaml, overrides), kBar) << head;
  }
}

class EveryPresetLearns : public testing::TestWithParam<const char*> {};

TEST_P(EveryPresetLearns, TwoAgentsAgree) {
  const std::string preset = GetParam();
  const std::string yaml = toy(
      "toy_echo", "preset: " + preset +
                      ", steps: 60k, num_envs: 64, horizon: 8, minibatches: 2, minibatch_size: 0, epochs: 4, "
                      "lr: 3e-3, gamma: 0.5, entropy: 0.003");
  constexpr double kBar = 0.98 * 8;  // best: 1 in each of eight steps
  EXPECT_LT(random_return(yaml), 0.5 * kBar);
  EXPECT_GE(worst_return(yaml), kBar);
}

INSTANTIATE_TEST_SUITE_P(Presets, EveryPresetLearns, testing::Values("ppo", "ippo", "mappo", "happo", "grpo"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Learn, OnlyNamedAgentsLearnInAPhase) {
  register_toys();
  const TemporaryFolder folder;
  // Ten updates of 512 steps each per phase, a checkpoint after every one.
  const std::string yaml = toy("toy_echo", "preset: mappo, num_envs: 64, horizon: 8") +
                           "phases:\n"
                           "  - {name: first, steps: 5120, learn: [speaker]}\n"
                           "  - {name: second, steps: 5120, learn: [listener], trainer.lr: 2e-3}\n"
                           "checkpoint: {every: 512, keep: 100}\n";
  const TestRun run = train_in(folder.path(), yaml);
  EXPECT_DOUBLE_EQ(run.last.at("lr"), 2e-3);
  const auto moved = [&](const std::string& agent, const std::string& from, const std::string& to) {
    const Policies before = load_policies(folder.path(), from), after = load_policies(folder.path(), to);
    const auto a = before.at(agent)->parameters(), b = after.at(agent)->parameters();
    return !std::equal(a.begin(), a.end(), b.begin(), b.end());
  };
  EXPECT_TRUE(moved("speaker", "512", "5120"));
  EXPECT_FALSE(moved("listener", "512", "5120"));
  EXPECT_FALSE(moved("speaker", "5120", "10240"));
  EXPECT_TRUE(moved("listener", "5120", "10240"));
}

}  // namespace
}  // namespace trimtab
