// Distillation brings a draft nearer to its target, whichever tokens it learns from.
#include <gtest/gtest.h>

#include "core/error.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

// A target whose replies are far from uniform, and a draft that has learned nothing.
class Distill : public testing::Test {
 protected:
  void SetUp() override { train_in(folder_.path() / "target", tiny_run("preset: sft, steps: 60, lr: 1e-2, rows: 16")); }
  MetricLines distilled(const std::string& name, const std::string& more) {
    return train_in(folder_.path() / name, tiny_run("preset: distill, steps: 60, rows: 16, max_tokens: 24, lr: 1e-2, teacher: " + (folder_.path() / "target" / "model").string() + more),
                    {"policy.architecture.hidden_size=12", "policy.architecture.num_layers=1"});
  }
  TemporaryFolder folder_;
};

TEST_F(Distill, ComesNearerWithEveryChoiceOfTokens) {
  for (const char* tokens : {"all", "selective", "rejected"}) {
    const MetricLines lines = distilled(tokens, fmt::format(", tokens: {}", tokens));
    EXPECT_LT(lines.back().at("train/loss"), 0.7 * lines.front().at("train/loss")) << tokens;
    EXPECT_GT(lines.back().at("train/acceptance"), lines.front().at("train/acceptance") + 0.05) << tokens;
    const double share = lines.front().at("train/learned_share");
    const double expected = std::string(tokens) == "all" ? 1 : std::string(tokens) == "selective" ? 0.4 : 1 - lines.front().at("train/acceptance");
    EXPECT_NEAR(share, expected, 0.1) << tokens;   // what is not accepted is rejected
  }
  const MetricLines corpus = distilled("corpus", ", texts: corpus");
  EXPECT_LT(corpus.back().at("train/loss"), 0.7 * corpus.front().at("train/loss"));
}

// The best model is the one whose drafts are accepted most, not the one that solves most.
TEST_F(Distill, IsJudgedByAcceptance) {
  Config config = Config::parse(tiny_run("preset: distill, steps: 12, rows: 16, max_tokens: 24, lr: 1e-2, teacher: " + (folder_.path() / "target" / "model").string()), "tiny");
  for (const char* o : {"policy.architecture.hidden_size=12", "policy.architecture.num_layers=1"}) config.apply(o);
  std::filesystem::create_directories(folder_.path() / "judged");
  double best = -1;
  int64_t best_step = -1, evaluations = 0;
  TrainHooks hooks{.run_folder = folder_.path() / "judged", .progress = false, .score = {}, .on_start = {}, .on_metrics = {}};
  hooks.on_metrics = [&](int64_t step, const std::vector<std::pair<std::string, double>>& metrics) {
    for (const auto& [name, value] : metrics)
      if (name == "eval/acceptance" && ++evaluations > 0 && value > best) best = value, best_step = step;
  };
  const TrainResult result = train(config, hooks);
  EXPECT_EQ(evaluations, 6);
  EXPECT_EQ(result.best_step, best_step);
  EXPECT_DOUBLE_EQ(result.best_score, best);
}

TEST_F(Distill, RefusesATargetOfAnotherTokenizer) {
  try {
    train_in(folder_.path() / "other", tiny_run("preset: distill, steps: 1, teacher: " + (folder_.path() / "target" / "model").string()), {"env.suite={type: sorting}"});
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("another tokenizer"), std::string::npos) << error.what();
  }
  EXPECT_THROW(train_in(folder_.path() / "none", tiny_run("preset: distill, steps: 1")), ConfigError);
}

}  // namespace
}  // namespace trimtab
