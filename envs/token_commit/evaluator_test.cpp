// Evaluation of mode synthetic: every policy answers the same made-up answers, and the oracle is one.
#include <gtest/gtest.h>

#include <map>

#include "core/error.h"
#include "core/test_support.h"
#include "envs/evaluation.h"

namespace trimtab {
namespace {

std::unique_ptr<Evaluator> evaluator_of(const std::string& more = "") {
  const Config config = Config::parse("env: {type: token_commit, mode: synthetic, length: 16, items: 16" + more + "}", "here").at("env");
  return Registry<EvaluatorEntry>::instance().get("token_commit", "evaluator").make(config, "synthetic");
}

struct Means {
  double correct = 0, passes = 0;
};
Means means_of(const Evaluator& evaluator, const std::string& policy, const AgentFactory& agents = {}) {
  constexpr int64_t kEpisodes = 64;
  Means out;
  for (int64_t i = 0; i < kEpisodes; ++i) {
    const EpisodeResult r = evaluator.run(policy, agents, i, test_seed(), false);
    EXPECT_EQ(r.metrics.size(), evaluator.metrics().size());
    out.correct += r.metrics[0] / kEpisodes, out.passes += r.metrics[1] / kEpisodes;
  }
  return out;
}

TEST(SyntheticEvaluator, RulesTradeAccuracyForPassesAndTheOracleNeedNot) {
  const auto evaluator = evaluator_of();
  std::map<std::string, Means> found;
  for (const EvaluatedPolicy& p : evaluator->policies(false)) found[p.name] = means_of(*evaluator, p.name);
  EXPECT_GT(found.size(), 40u);
  for (const auto& [name, m] : found) {
    EXPECT_GE(m.passes, 1) << name;
    EXPECT_LE(m.passes, 16) << name;
  }
  EXPECT_EQ(found["lock_in"].correct, 1);
  EXPECT_LT(found["lock_in"].passes, found["top1"].passes);
  EXPECT_LT(found["threshold_50"].passes, found["threshold_90"].passes);
  EXPECT_LT(found["threshold_50"].correct, found["threshold_99"].correct);
  EXPECT_TRUE(found.contains(evaluator->reference()));
}

class Nothing final : public AgentFunction {
 public:
  void decide(const float*, const float*, const uint8_t*, int num_items, float* action) override { std::fill_n(action, num_items, 0.0f); }
};

TEST(SyntheticEvaluator, AnAgentThatLeavesAllOutIsForcedInEveryPass) {
  const auto evaluator = evaluator_of();
  const EpisodeResult r = evaluator->run("learned", [] {
    std::map<std::string, std::unique_ptr<AgentFunction>> out;
    out.emplace("commit", std::make_unique<Nothing>());
    return out;
  }, 0, test_seed(), false);
  EXPECT_EQ(r.metrics[1], r.metrics[4]);   // passes, forced
}

TEST(SyntheticEvaluator, RefusesWhatMadeUpAnswersDoNotHave) {
  EXPECT_THROW(evaluator_of(", delimiters: [x]"), ConfigError);
  EXPECT_THROW(evaluator_of(", filter: f.safetensors"), ConfigError);
}

}  // namespace
}  // namespace trimtab
