// Numbers that stop being numbers in a language run: what is named, what is left out.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/checkpoint.h"
#include "policies/language/floats.h"
#include "policies/tokenizer/tokenizer.h"
#include "trainers/language/learner.h"
#include "trainers/language/rollout.h"
#include "trainers/language/test_environment.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

class LanguageGuard : public testing::Test {
 protected:
  LanguageGuard() : model_({.vocab_size = 11, .hidden_size = 8, .num_layers = 2, .num_heads = 2, .num_kv_heads = 2, .head_dim = 4, .intermediate_size = 16, .max_positions = 16, .rope = {}, .diffusion = {}, .eos_ids = {}}, 5) {}

  // One step after `damage`; what the guard said.
  std::string step(const std::string& policy, double loss, const std::function<void()>& damage) {
    FlatOptimiser optimiser(model_, {}, {.non_finite = policy}, one_process());
    damage();
    const std::vector<float> before(floats(model_.trainable()).begin(), floats(model_.trainable()).end());
    try {
      optimiser.step(0.1, 1, loss, [&] { return ++dumps_, std::string("batch.json"); });
    } catch (const RunError& error) {
      return error.what();
    }
    const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
    for (size_t i = 0; i < before.size(); ++i) moved_ += bits(floats(model_.trainable())[i]) != bits(before[i]);
    const auto metrics = optimiser.with_guard({});
    return metrics.empty() ? "" : std::to_string(static_cast<int>(metrics[0].second));
  }
  float& gradient(const std::string& name) { return *model_.trainable_parameters().at(name).grad().data_ptr<float>(); }
  float& weight(const std::string& name) { return *model_.trainable_parameters().at(name).data_ptr<float>(); }

  Transformer model_;
  int dumps_ = 0;
  int64_t moved_ = 0;
};

constexpr const char* kName = "model.layers.1.self_attn.k_proj.weight";

TEST_F(LanguageGuard, NamesTheGradientTheWeightAndTheLoss) {
  EXPECT_NE(step("stop", 1, [&] { gradient(kName) = NAN; }).find(std::string("the gradient of '") + kName), std::string::npos);
  model_.flat_gradient().zero_();
  EXPECT_NE(step("stop", NAN, [&] { weight(kName) = INFINITY; }).find(std::string("the weight '") + kName), std::string::npos);
  weight(kName) = 0;
  const std::string loss = step("stop", INFINITY, [] {});
  EXPECT_NE(loss.find("the loss is not finite"), std::string::npos) << loss;
  EXPECT_NE(loss.find("batch.json"), std::string::npos) << loss;
  EXPECT_EQ(dumps_, 3);
}

TEST_F(LanguageGuard, LeavesTheStepOutWhereAsked) {
  EXPECT_EQ(step("skip", 1, [&] { gradient(kName) = NAN; }), "1");
  EXPECT_EQ(moved_, 0);
  EXPECT_EQ(dumps_, 1);
  EXPECT_TRUE(model_.flat_gradient().isfinite().all().item<bool>()) << "the next step begins from zero";
  EXPECT_EQ(step("skip", 1, [&] { gradient(kName) = 1; }), "0");
  EXPECT_GT(moved_, 0);
}

// A reply of the second group has no reward.
class OneNumberIsNone final : public OtherVerdicts {
 public:
  using OtherVerdicts::OtherVerdicts;
  std::vector<Verdict> score(std::span<const Problem>, std::span<const std::string> replies) override {
    std::vector<Verdict> out(replies.size(), Verdict{1, true});
    out[5].outcome = NAN;
    return out;
  }
};

TEST(LanguageRollouts, ARewardThatIsNoneEndsTheRunOrItsGroupIsLeftOut) {
  const TemporaryFolder folder;
  OneNumberIsNone environment(Registry<TextEnvironmentEntry>::instance().get("reasoning", "environment").make(Config::parse("{type: reasoning, suite: {type: chained_arithmetic, tiers: [1]}}", "env"), {}));
  ArchitectureOptions architecture;
  architecture.hidden_size = 8, architecture.num_layers = 1, architecture.num_heads = 2, architecture.intermediate_size = 16;
  LanguageModel model = LanguageModel::create(architecture, {{"tokenizer.json", character_tokenizer_json(environment.alphabet())}}, 1);
  Pool pool(1);
  const LanguageContext context{.model = &model, .environment = &environment, .pool = &pool, .seed = 3, .phase = 0, .run_folder = folder.path(), .compute = at::kFloat, .load_start = {}};
  GroupOptions options;
  options.prompts = 3, options.group_size = 4, options.sampling.max_tokens = 4;
  try {
    LanguageRollout(options, context, *model.transformer, pool).collect(0, 0);
    FAIL() << "collected";
  } catch (const RunError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("is nan: give a finite number"), std::string::npos) << message;
    EXPECT_NE(message.find((folder.path() / "nonfinite.json").string()), std::string::npos) << message;
  }
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "nonfinite.json"));
  options.guard.non_finite = "skip";
  LanguageRollout rollout(options, context, *model.transformer, pool);
  EXPECT_EQ(rollout.collect(0, 0).groups.size(), 2u);
  const LanguageRollout::Result second = rollout.collect(1, 1);
  EXPECT_EQ(second.groups.size(), 2u);
  const auto refused = std::find_if(second.metrics.begin(), second.metrics.end(), [](const auto& m) { return m.first == "guard/refused_groups"; });
  ASSERT_NE(refused, second.metrics.end());
  EXPECT_EQ(refused->second, 2);
}

// A guard that takes nearly every step for a spike, once there is something to compare with.
TEST(LanguageRunGuard, SpikesAreLeftOutAndCounted) {
  TemporaryFolder a, b;
  const std::string trainer = "preset: sft, steps: 48, rows: 1, lr: 1e-5";   // so little that losses go up and down with the texts
  const MetricLines plain = train_in(a.path(), tiny_run(trainer), {"eval.episodes=0"});
  const MetricLines guarded = train_in(b.path(), tiny_run(trainer + ", guard: {spike: 0.01, window: 16}"), {"eval.episodes=0"});
  EXPECT_GT(guarded.back().at("guard/spikes"), 0);
  EXPECT_FALSE(plain.back().contains("guard/spikes"));
  EXPECT_NE(CheckpointFolder(a.path() / "checkpoints").load("latest").state.at("parameters").bytes,
            CheckpointFolder(b.path() / "checkpoints").load("latest").state.at("parameters").bytes);
}

}  // namespace
}  // namespace trimtab
