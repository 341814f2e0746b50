// Language runs as a whole, on models of a few thousand parameters: resuming, threads, what each preset's keys do.
#include <gtest/gtest.h>

#include "core/checkpoint.h"
#include "trainers/language/evaluate.h"
#include "trainers/language/test_support.h"
#include "trainers/seams/preset.h"

namespace trimtab {
namespace {

const std::string kSmall = "steps: 4, prompts: 4, group_size: 4, minibatches: 2, lr: 1e-3, token_budget: 128, patience: 1000, sampling: {max_tokens: 12}";

std::vector<uint8_t> parameters(const std::filesystem::path& run) {
  return CheckpointFolder(run / "checkpoints").load("latest").state.at("parameters").bytes;
}

TEST(LanguageRun, EveryPresetTrainsAndThreadsDoNotChangeABit) {
  for (const std::string& name : Registry<TrainerPreset>::instance().names()) {
    if (Registry<TrainerPreset>::instance().get(name, "preset").language.empty()) continue;
    SCOPED_TRACE(name);
    // A reward for ending early, so that even a random model's groups differ.
    const std::string yaml = tiny_run("preset: " + name + ", " + kSmall + ", dynamic_sampling: 0, reward: {overlong_cache: 11}");
    TemporaryFolder a, b;
    const MetricLines lines = train_in(a.path(), yaml);
    EXPECT_GT(total(lines, "train/grad_norm"), 0);
    train_in(b.path(), yaml, {"run.threads=1"});
    EXPECT_EQ(parameters(a.path()), parameters(b.path()));
  }
}

TEST(LanguageRun, AStoppedAndResumedRunEqualsTheWholeOne) {
  for (const std::string trainer : {"preset: sft, steps: 4, rows: 6, facts: 1, clean: 1", "preset: dcpo, prompt_pool: 5, reward: {overlong_cache: 11}, " ,
                                    "preset: dler, dynamic_sampling: 0, difficulty: {enabled: true, low: 4}, carry_over: {tokens: 60}, reward: {overlong_cache: 11}, "}) {
    SCOPED_TRACE(trainer);
    const std::string yaml = tiny_run(trainer.starts_with("preset: sft") ? trainer : trainer + kSmall);
    TemporaryFolder whole, cut;
    train_in(whole.path(), yaml);
    train_in(cut.path(), yaml);
    // As after a kill behind the second update: the checkpoints of the later ones are gone.
    std::filesystem::remove_all(cut.path() / "checkpoints" / "step-000003");
    std::filesystem::remove_all(cut.path() / "checkpoints" / "step-000004");
    std::filesystem::remove(cut.path() / "checkpoints" / "latest");
    const MetricLines rest = train_in(cut.path(), yaml);
    EXPECT_EQ(rest.front().at("step"), 3);
    EXPECT_EQ(parameters(whole.path()), parameters(cut.path()));
  }
}

TEST(LanguageRun, SharedAndRepeatedPrefixTrainAlike) {
  const std::string yaml = tiny_run("preset: grpo, " + kSmall + ", reward: {overlong_cache: 11}, verify_shared_prefix: always");
  TemporaryFolder a, b;
  const MetricLines shared = train_in(a.path(), yaml), repeated = train_in(b.path(), yaml, {"trainer.shared_prefix=false"});
  ASSERT_EQ(shared.size(), repeated.size());
  for (size_t i = 0; i < shared.size(); ++i) EXPECT_NEAR(shared[i].at("train/grad_norm"), repeated[i].at("train/grad_norm"), 1e-3 * (1 + shared[i].at("train/grad_norm")));
}

TEST(LanguageRun, SamplerAndTrainerAgree) {
  TemporaryFolder a;
  for (const auto& line : train_in(a.path(), tiny_run("preset: grpo, " + kSmall + ", reward: {overlong_cache: 11}, mismatch: {kind: icepop}"))) {
    if (!line.contains("train/mismatch")) continue;
    EXPECT_LT(line.at("train/mismatch_max"), 1e-3);
    EXPECT_EQ(line.at("train/mismatch_masked"), 0);
  }
}

TEST(LanguageRun, CarryOverFinishesWhatABudgetCutShort) {
  TemporaryFolder a;
  double replies = 0, waiting = 0;
  for (const auto& line : train_in(a.path(), tiny_run("preset: grpo, " + kSmall + ", reward: {overlong_cache: 11}, carry_over: {tokens: 60, staleness: 8}", ""), {"trainer.steps=8"})) {
    if (!line.contains("train/replies")) continue;
    replies += line.at("train/replies"), waiting += line.at("train/waiting");
  }
  EXPECT_GT(waiting, 0);
  EXPECT_GT(replies, 16);
  EXPECT_LT(replies, 8 * 16);
}

// The same run with a weight that only measures, and with one that holds.
TEST(LanguageRun, AReferenceModelHoldsThePolicyBack) {
  TemporaryFolder start, free, held;
  train_in(start.path(), tiny_run("preset: sft, steps: 2, rows: 4"));
  const std::string from = "policy.model=" + (start.path() / "model").string();
  const std::string yaml = tiny_run("preset: grpo, " + kSmall + ", reward: {overlong_cache: 11}, epochs: 2");
  const auto divergence = [&](const std::filesystem::path& run, const std::string& weight) {
    return train_in(run, yaml, {from, "trainer.steps=8", "trainer.lr=1e-2", "trainer.reference_kl=" + weight}).back().at("train/reference_kl");
  };
  const double far = divergence(free.path(), "1e-9"), near = divergence(held.path(), "1");
  EXPECT_GT(near, 0);
  EXPECT_LT(near, 0.5 * far);
}

TEST(LanguageRun, PassAtKIsTheUnbiasedEstimate) {
  EXPECT_DOUBLE_EQ(pass_at_k(4, 1, 1), 0.25);
  EXPECT_DOUBLE_EQ(pass_at_k(4, 2, 2), 1 - 1.0 / 6);
  EXPECT_DOUBLE_EQ(pass_at_k(4, 0, 4), 0);
  EXPECT_DOUBLE_EQ(pass_at_k(4, 3, 2), 1);
}

}  // namespace
}  // namespace trimtab
