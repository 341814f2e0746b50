// Every trainer of language models on two and four ranks (threads of one process): weights, optimiser, statistics and metrics are those
// of one rank, to the bit, because work is cut and added in the same way; and what one wrote, others resume.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "core/checkpoint.h"
#include "core/thread_ranks.h"
#include "trainers/language/mixture_test_support.h"

namespace trimtab {
namespace {

const std::string kGroups = "steps: 4, prompts: 4, group_size: 4, minibatches: 2, lr: 1e-3, token_budget: 128, patience: 1000, sampling: {max_tokens: 12}, reward: {overlong_cache: 11}";

// What a run leaves behind, and every metric but clocks and memory.
struct Trained {
  Checkpoint checkpoint;
  MetricLines lines;
  int64_t bytes_sent = 0;   // by the main rank
};

bool is_of_the_machine(const std::string& name) { return name.starts_with("time/") || name.starts_with("memory/"); }

Trained train_on(int size, const std::filesystem::path& folder, const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  std::filesystem::create_directories(folder);
  Config config = Config::parse(yaml, "ranks.yaml");
  for (const std::string& text : overrides) config.apply(text);
  config.apply("run.threads=1");
  Trained out;
  on_ranks(size, [&](Ranks& ranks) {
    TrainHooks hooks{.run_folder = folder, .progress = false, .score = {}, .on_start = {}, .on_metrics = {}, .ranks = &ranks};
    MetricLines lines;
    hooks.on_metrics = [&](int64_t step, const std::vector<std::pair<std::string, double>>& metrics) {
      auto& line = lines.emplace_back();
      line["step"] = static_cast<double>(step);
      for (const auto& [name, value] : metrics)
        if (!is_of_the_machine(name)) line[name] = value;
    };
    train(config, hooks);
    if (ranks.is_main()) out.lines = lines, out.bytes_sent = ranks.bytes_sent();
  });
  out.checkpoint = CheckpointFolder(folder / "checkpoints").load("latest");
  return out;
}

void expect_equal(const Trained& a, const Trained& b, bool is_spsa) {
  EXPECT_TRUE(serialise_safetensors(a.checkpoint.state) == serialise_safetensors(b.checkpoint.state));
  EXPECT_EQ(a.checkpoint.counters, b.checkpoint.counters);
  EXPECT_EQ(a.checkpoint.blobs, b.checkpoint.blobs);
  ASSERT_EQ(a.lines.size(), b.lines.size());
  for (size_t i = 0; i < a.lines.size(); ++i) {
    for (const auto& [name, value] : a.lines[i]) {
      // Ranks of spsa exchange bytes alone: what it logs is of the main one's directions.
      if (is_spsa && name.starts_with("train/")) continue;
      ASSERT_TRUE(b.lines[i].contains(name)) << name;
      EXPECT_EQ(value, b.lines[i].at(name)) << "line " << i << ", " << name;
    }
  }
}

class EveryTrainer : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(EveryTrainer, TwoAndFourRanksMakeTheRunOfOne) {
  const std::string yaml = tiny_run(GetParam().second);
  const TemporaryFolder folder;
  const Trained one = train_on(1, folder.path() / "1", yaml);
  EXPECT_EQ(one.bytes_sent, 0);
  for (const int size : {2, 4}) {
    SCOPED_TRACE(size);
    const Trained several = train_on(size, folder.path() / std::to_string(size), yaml);
    expect_equal(one, several, GetParam().first == "spsa");
    EXPECT_GT(several.bytes_sent, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Language, EveryTrainer,
    testing::Values(std::pair<std::string, std::string>{"sft", "preset: sft, steps: 4, rows: 9, facts: 1, clean: 1, token_budget: 64"},
                    std::pair<std::string, std::string>{"grpo", "preset: grpo, " + kGroups}, std::pair<std::string, std::string>{"gspo", "preset: gspo, " + kGroups},
                    std::pair<std::string, std::string>{"one_prompt", "preset: grpo, steps: 3, prompts: 1, minibatches: 1, group_size: 8, lr: 1e-3, token_budget: 64, patience: 1000, sampling: {max_tokens: 12}, reward: {overlong_cache: 11}"},   // fewer than ranks
                    std::pair<std::string, std::string>{"dler", "preset: dler, dynamic_sampling: 0, difficulty: {enabled: true, low: 4}, " + kGroups},
                    std::pair<std::string, std::string>{"dcpo", "preset: dcpo, prompt_pool: 5, mismatch: {kind: icepop}, " + kGroups},
                    std::pair<std::string, std::string>{"reference", "preset: grpo, reference_kl: 0.1, " + kGroups},
                    std::pair<std::string, std::string>{"tree", "preset: grpo, tree: {branches: 2, depth: 2, at: [0.3, 0.6]}, " + kGroups},
                    std::pair<std::string, std::string>{"diffusion", "preset: diffusion, steps: 4, rows: 6, facts: 0, token_budget: 64, answer_length: 80"},
                    std::pair<std::string, std::string>{"spsa", "preset: spsa, steps: 3, rows: 2, directions: 4"}),
    [](const auto& info) { return info.param.first; });

class MixtureRanks : public testing::Test, protected BaseAndAdapters {
 protected:
  Trained mixture_on(int ranks, int64_t shards) {
    return train_on(ranks, root_.path() / std::to_string(ranks), tiny_run(fmt::format("preset: adapter_mixture, steps: 4, rows: 9, episodes: 5, max_tokens: 9, token_budget: 64, shards: {}", shards)), options());
  }
};

TEST_F(MixtureRanks, TwoAndFourMakeTheRoutersOfOne) {
  const Trained one = mixture_on(1, 4);
  for (const int size : {2, 4}) {
    SCOPED_TRACE(size);
    const Trained several = mixture_on(size, 4);
    expect_equal(one, several, false);
    EXPECT_GT(several.bytes_sent, 0);
  }
}

TEST_F(MixtureRanks, MoreThanThereAreShardsIsRefused) {
  try {
    mixture_on(3, 2);
    FAIL() << "trained";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("trainer.shards"), std::string::npos) << error.what();
  }
}

// Nobody has to come back with as many: written by two, gone on from by one and by four.
TEST(LanguageRanks, AnyNumberResumes) {
  const TemporaryFolder folder;
  const std::string yaml = tiny_run("preset: grpo, " + kGroups);
  const Trained whole = train_on(1, folder.path() / "whole", yaml);
  for (const int size : {1, 4}) {
    const std::filesystem::path cut = folder.path() / ("cut" + std::to_string(size));
    train_on(2, cut, yaml);
    for (const char* later : {"step-000003", "step-000004"}) std::filesystem::remove_all(cut / "checkpoints" / later);
    std::filesystem::remove(cut / "checkpoints" / "latest");
    const Trained resumed = train_on(size, cut, yaml);
    EXPECT_TRUE(serialise_safetensors(whole.checkpoint.state) == serialise_safetensors(resumed.checkpoint.state)) << size;
    EXPECT_EQ(whole.checkpoint.counters, resumed.checkpoint.counters);
  }
}

// In 16 bits a rank adds up its micro-batches before ranks are added: another order than one rank's, so equal but for rounding; and to the bit with as many.
TEST(LanguageRanks, InSixteenBitsTwoAgreeWithOne) {
  const TemporaryFolder folder;
  const std::string yaml = tiny_run("preset: sft, steps: 3, rows: 8, token_budget: 64");
  const auto train_16 = [&](int size, const std::string& name) { return train_on(size, folder.path() / name, yaml, {"+run.precision=bf16", "eval.episodes=0"}); };
  const Trained one = train_16(1, "one"), two = train_16(2, "two"), again = train_16(2, "again");
  expect_equal(two, again, false);
  ASSERT_EQ(one.lines.size(), two.lines.size());
  for (size_t i = 0; i < one.lines.size(); ++i)
    for (const char* name : {"train/loss", "train/grad_norm"}) EXPECT_NEAR(two.lines[i].at(name) / one.lines[i].at(name), 1, i == 0 ? 1e-5 : 1e-2) << name << ", line " << i;
}

// docs/cluster.md: gradients and parameters once around, 2 (n - 1) / n of their bytes by each rank.
TEST(LanguageRanks, GradientsAreTheTrafficOfThePlan) {
  const TemporaryFolder folder;
  const std::string wide = tiny_run("preset: sft, steps: 6, rows: 8");
  const std::vector<std::string> size = {"policy.architecture.hidden_size=128", "policy.architecture.intermediate_size=512", "eval.episodes=0"};
  for (const int ranks : {2, 4}) {
    const Trained trained = train_on(ranks, folder.path() / std::to_string(ranks), wide, size);
    const auto parameters = static_cast<double>(trained.checkpoint.state.at("parameters").as_f32().size());
    // Moments are gathered for a checkpoint after every update here (checkpoint.every = 1): two buffers, half the way.
    const double plan = 6 * 4 * parameters * (2 * (ranks - 1.0) / ranks + 2 * (ranks - 1.0) / ranks);
    EXPECT_NEAR(static_cast<double>(trained.bytes_sent) / plan, 1, 0.05) << ranks;
  }
}

TEST(LanguageRanks, MoreThanThereAreShardsIsRefused) {
  const TemporaryFolder folder;
  try {
    train_on(3, folder.path(), tiny_run("preset: sft, steps: 1, rows: 4, shards: 2"));
    FAIL() << "trained";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("trainer.shards"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace trimtab
