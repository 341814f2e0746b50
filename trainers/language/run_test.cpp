// Language runs as a whole, on models of a few thousand parameters: resuming, threads, what each preset's keys do.
#include <ATen/ATen.h>
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
    TemporaryFolder two, one, eight;
    const MetricLines lines = train_in(two.path(), yaml);
    EXPECT_GT(total(lines, "train/grad_norm"), 0);
    train_in(one.path(), yaml, {"run.threads=1"});
    train_in(eight.path(), yaml, {"run.threads=8"});
    EXPECT_EQ(parameters(two.path()), parameters(one.path()));
    EXPECT_EQ(parameters(two.path()), parameters(eight.path()));
  }
}

double first(const MetricLines& lines, const std::string& name) {
  for (const auto& line : lines)
    if (line.contains(name)) return line.at(name);
  return NAN;
}

// Forward and backward in bf16 beside f32 masters, as on a GPU: near the run in f32 until replies differ, and not the same.
TEST(LanguageRun, TrainsInSixteenBits) {
  for (const std::string& trainer : {std::string("preset: sft, steps: 30, rows: 6, lr: 5e-3"), "preset: grpo, " + kSmall + ", verify_shared_prefix: always, reward: {overlong_cache: 11}"}) {
    SCOPED_TRACE(trainer);
    TemporaryFolder a, b;
    const MetricLines wide = train_in(a.path(), tiny_run(trainer)), narrow = train_in(b.path(), tiny_run(trainer), {"+run.precision=bf16"});
    EXPECT_NEAR(first(wide, "train/grad_norm"), first(narrow, "train/grad_norm"), 0.1 * first(wide, "train/grad_norm"));
    EXPECT_NE(parameters(a.path()), parameters(b.path()));
    if (trainer.starts_with("preset: sft")) {
      EXPECT_NEAR(total(wide, "train/loss"), total(narrow, "train/loss"), 0.02 * total(wide, "train/loss"));
    } else {
      EXPECT_LT(first(narrow, "train/mismatch_max"), 0.3);   // of the sampler's f32 and the trainer's bf16
      EXPECT_GT(first(narrow, "train/mismatch_max"), 1e-4);
    }
  }
}

TEST(LanguageRun, DevicesAndFormatsThatCannotBeAreRefusedWithACure) {
  const auto refused = [](const std::vector<std::string>& overrides, const std::string& part) {
    TemporaryFolder folder;
    try {
      train_in(folder.path(), tiny_run("preset: sft, steps: 1"), overrides);
      ADD_FAILURE() << "trained";
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  refused({"+run.device=cuda", "+run.precision=f32"}, "bf16");
  if (!at::hasCUDA()) refused({"+run.device=cuda"}, "TRIMTAB_CUDA=ON");
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
