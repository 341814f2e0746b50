// Draft lengths learned on synthetic drafts, against the exact optimum of all controllers that see what the learner sees. The best fixed
// length is 4.4 % below it, and stopping at every hard sign 4 %: neither would pass.
#include "envs/draft_length/optimum.h"
#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr char kDrafts[] = R"(
run: {name: drafts, threads: 2}
env:
  type: draft_length
  mode: synthetic
  cost: {draft: 0.25}
  synthetic: {accept_easy: 0.97, accept_hard: 0.3, stay_easy: 0.9, stay_hard: 0.7, signal: 0.9, length: 256, most_drafted: 8}
policy: {stop: {hidden: [32, 32]}, critic: {hidden: [32, 32]}}
trainer: {preset: ppo, steps: 1M, num_envs: 32, horizon: 256, minibatch_size: 1024, epochs: 4, lr: 2e-3, gamma: 1, lambda: 0.95, entropy: 0.003, schedule: {kind: linear}}
eval: {every: 10M, episodes: 512}
)";

SyntheticProblem problem() {
  SyntheticProblem p;
  p.cost.draft = 0.25;
  p.drafts = {.accept_easy = 0.97, .accept_hard = 0.3, .stay_easy = 0.9, .stay_hard = 0.7, .signal = 0.9, .length = 256, .most_drafted = 8};
  return p;
}

double rate_after(const std::vector<std::string>& overrides) {
  const TemporaryFolder folder;
  const auto last = train_in(folder.path(), kDrafts, overrides).last;
  return static_cast<double>(last.at("eval/tokens")) / static_cast<double>(last.at("eval/ms"));
}

void expect_near_optimum(std::vector<std::string> overrides) {
  const double best = optimal_rate(problem());
  EXPECT_LT(fixed_rate(problem(), best_fixed(problem())), 0.98 * best);
  overrides.push_back("");
  for (const int seed : {1, 2, 3}) {
    overrides.back() = "run.seed=" + std::to_string(seed);
    EXPECT_GE(rate_after(overrides), 0.99 * best) << "seed " << seed;
  }
}

TEST(Learn, DraftLengthByPpo) { expect_near_optimum({}); }
TEST(Learn, DraftLengthByGrpo) { expect_near_optimum({"trainer.preset=grpo", "trainer.group_size=16", "trainer.horizon=512"}); }

}  // namespace
}  // namespace trimtab
