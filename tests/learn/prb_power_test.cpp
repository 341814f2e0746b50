// The cell at a small size: from equal shares of power (no residual feature to start from), the power agent has to find that watts
// belong where they buy bits. Equal shares and random shares must both stay below the bar.
#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr char kSmallCell[] = R"(
run: {name: small-cell, threads: 2}
env:
  type: prb_power
  data: synthetic
  synthetic: {num_users: 6, num_prb: 24, slots: 200, max_distance: 300}
  cell: {tx_power_dbm: 20}
  prb: pf
  reward: {form: marginal, throughput: 1, fairness: 0}
  episode_slots: 100
policy:
  power: {hidden: [16, 16], residual: "", init_log_std: -1}
  critic: {hidden: [16, 16]}
trainer: {preset: mappo, steps: 150k, num_envs: 32, horizon: 50, epochs: 4, minibatches: 2, lr: 3e-3, gamma: 0.95, entropy: 0}
eval: {every: 10M, episodes: 64}
)";

double score(const std::vector<std::string>& overrides) {
  const TemporaryFolder folder;
  return train_in(folder.path(), kSmallCell, overrides).last.at("eval/cell_throughput_mbps");
}

TEST(Learn, PowerOfASmallCell) {
  const double equal = score({"trainer.lr=0", "trainer.steps=1600"});   // the mode of an untrained policy
  const double random = score({"trainer.lr=0", "trainer.steps=1600", "policy.power.last_layer_gain=3"});
  const double bar = 1.04 * std::max(equal, random);
  for (const int seed : {1, 2}) EXPECT_GE(score({"run.seed=" + std::to_string(seed)}), bar) << "seed " << seed;
}

}  // namespace
}  // namespace trimtab
