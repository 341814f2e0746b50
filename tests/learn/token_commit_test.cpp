// Token commitment on made-up answers: GRPO learns when a proposal may be trusted, and with a budget of passes to be done within it. Untrained the controller is a soft threshold.
#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr char kCommitment[] = R"(
run: {name: commitment, threads: 2}
env: {type: token_commit, mode: synthetic, length: 12, items: 12, synthetic: {depends: 0.8}}
policy: {commit: {hidden: [16, 32], attention: 4, residual: sureness, residual_init: 1}}
trainer: {preset: dr_grpo, group_score: return, steps: 100k, num_envs: 64, group_size: 16, lr: 1e-3}
eval: {every: 10M, episodes: 256}
)";

std::map<std::string, double> evaluated(const std::vector<std::string>& overrides) {
  const TemporaryFolder folder;
  return train_in(folder.path(), kCommitment, overrides).last;
}

TEST(Learn, TokenCommitmentForFewerPasses) {
  const auto before = evaluated({"trainer.lr=0"}), after = evaluated({});
  EXPECT_GT(after.at("eval/return"), 1.4 * before.at("eval/return"));
  EXPECT_LT(after.at("eval/passes"), before.at("eval/passes") - 1);
}

TEST(Learn, TokenCommitmentWithinABudget) {
  const std::vector<std::string> budget = {"env.reward=sum", "env.pass_price=0", "+env.budget=4"};
  std::vector<std::string> untrained = budget;
  untrained.push_back("trainer.lr=0");
  EXPECT_LT(evaluated(untrained).at("eval/correct"), 0.1) << "too careful for four passes";
  EXPECT_GT(evaluated(budget).at("eval/correct"), 0.3);
}

}  // namespace
}  // namespace trimtab
