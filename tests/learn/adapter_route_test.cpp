// GRPO on the router: whole episodes of one world are compared, and either reward teaches which adapter a task wants. Untrained it chooses about at random.
#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr char kRouter[] = R"(
run: {name: router, threads: 2}
env: {type: adapter_route, requests: {requests: 24}, paging: {slots: 2}, synthetic: {adapters: 4, tasks: 4, embedding: 4}}
trainer: {preset: grpo, steps: 24576, num_envs: 16, group_size: 8, lr: 3e-3}
eval: {every: 10M, episodes: 64}
)";

TEST(Learn, AdapterRouteInGroups) {
  for (const char* reward : {"additive", "hierarchical"}) {
    const std::string kind = std::string("env.reward.kind=") + reward;
    const TemporaryFolder untrained, trained;
    const TestRun before = train_in(untrained.path(), kRouter, {kind, "trainer.lr=0"}), after = train_in(trained.path(), kRouter, {kind});
    EXPECT_GT(after.last.at("eval/return"), 1.3 * before.last.at("eval/return")) << reward;
    EXPECT_EQ(after.updates, 64) << "a rollout is a whole episode of each instance";
    EXPECT_TRUE(after.last.contains(std::string("reward/") + (kind.ends_with("additive") ? "quality" : "outcome")));
  }
}

}  // namespace
}  // namespace trimtab
