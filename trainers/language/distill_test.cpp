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
