// Efforts and budgets that the prompt names: drawing them, what they do to rewards, and their state in checkpoints.
#include <gtest/gtest.h>

#include <set>

#include "core/checkpoint.h"
#include "core/error.h"
#include "policies/tokenizer/tokenizer.h"
#include "trainers/language/rollout.h"
#include "trainers/language/test_environment.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

std::unique_ptr<TextEnvironment> reasoning(const std::string& more) {
  const Config config = Config::parse("type: reasoning\nsuite: {type: chained_arithmetic, tiers: [1, 2]}\n" + more, "env");
  return Registry<TextEnvironmentEntry>::instance().get("reasoning", "environment").make(config, {});
}

LanguageModel tiny_model(const TextEnvironment& environment) {
  ArchitectureOptions architecture;
  architecture.hidden_size = 16, architecture.num_layers = 1, architecture.num_heads = 2, architecture.intermediate_size = 32, architecture.init_std = 0.3;
  return LanguageModel::create(architecture, {{"tokenizer.json", character_tokenizer_json(environment.alphabet())}}, 1);
}

TEST(Effort, ThePromptNamesWhatItsKeyDraws) {
  const auto plain = reasoning(""), environment = reasoning("effort: [0.5, 1, 2]\nbudgets: [8, 16]\n");
  const LanguageModel model = tiny_model(*environment);
  std::set<double> efforts;
  std::set<int64_t> budgets;
  for (uint64_t i = 0; i < 40; ++i) {
    const Problem p = environment->problem(Split::kTrain, 5, i), again = environment->problem(Split::kTrain, 5, i), bare = plain->problem(Split::kTrain, 5, i);
    EXPECT_EQ(p.effort, again.effort);
    EXPECT_EQ(p.budget, again.budget);
    EXPECT_EQ(p.id, bare.id);   // the same problem, whatever is asked for beside it
    efforts.insert(p.effort), budgets.insert(p.budget);
    const std::string text = model.tokenizer->decode(environment->prompt_tokens(*model.tokenizer, p), {.skip_special = true});
    EXPECT_EQ(text, fmt::format("effort {:g} budget {} {}", p.effort, p.budget, p.prompt));
  }
  EXPECT_EQ(efforts, (std::set<double>{0.5, 1, 2}));
  EXPECT_EQ(budgets, (std::set<int64_t>{8, 16}));
  EXPECT_THROW(reasoning("effort: [0]\n"), ConfigError);
}

// Every reply is right, so that rewards tell of lengths alone.
class AlwaysRight final : public OtherVerdicts {
 public:
  using OtherVerdicts::OtherVerdicts;
  std::vector<Verdict> score(std::span<const Problem> problems, std::span<const std::string>) override { return std::vector<Verdict>(problems.size(), Verdict{1, true}); }
};

struct Rolled {
  std::vector<SampledGroup> groups;
  Checkpoint state;
};
Rolled roll(const std::string& more, GroupOptions options, const Checkpoint* from = nullptr, int64_t update = 0) {
  AlwaysRight environment(reasoning(more));
  LanguageModel model = tiny_model(environment);
  Pool pool(2);
  options.prompts = 6, options.group_size = 6, options.sampling.max_tokens = 24, options.prompt_pool = 6;
  const LanguageContext context{.model = &model, .environment = &environment, .pool = &pool, .seed = 3, .phase = 0, .run_folder = {}, .compute = at::kFloat, .load_start = {}};
  LanguageRollout rollout(options, context, *context.model->transformer, *context.pool);
  if (from != nullptr) rollout.load(*from);
  Rolled out{rollout.collect(update, update).groups, {}};
  rollout.save(out.state);
  return out;
}

double total_length(const SampledGroup& g) {
  double sum = 0;
  for (const SampledReply& r : g.replies) sum += static_cast<double>(r.tokens.size());
  return sum;
}

TEST(Effort, ARightReplyEarnsUpToItsShareOfTheMeanLength) {
  int64_t kept = 0, lost = 0;
  for (const SampledGroup& g : roll("effort: [0.5, 1]\n", GroupOptions()).groups) {
    for (const SampledReply& r : g.replies) {
      const bool in_time = static_cast<double>(r.tokens.size()) <= g.problem.effort * (total_length(g) / 6);
      EXPECT_EQ(r.reward, in_time ? 1 : 0);
      EXPECT_EQ(r.verdict.outcome, 1);   // accuracy does not know of efforts
      (in_time ? kept : lost)++;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(lost, 0);
}

TEST(Effort, TokensBeyondTheBudgetCost) {
  GroupOptions options;
  options.reward.budget_weight = 0.4;
  int64_t beyond = 0;
  for (const SampledGroup& g : roll("budgets: [4, 12]\n", options).groups) {
    for (const SampledReply& r : g.replies) {
      const auto n = static_cast<int64_t>(r.tokens.size());
      EXPECT_DOUBLE_EQ(r.reward, 1 + budget_barrier(n, g.problem.budget, 0.25, 0.4));
      beyond += n > g.problem.budget;
    }
  }
  EXPECT_GT(beyond, 0);
}

TEST(Effort, LengthsGoOnFromACheckpoint) {
  const Rolled first = roll("effort: [1]\n", GroupOptions()), second = roll("effort: [1]\n", GroupOptions(), &first.state, 1);
  for (const SampledGroup& g : second.groups) {
    double before = 0;
    for (const SampledGroup& f : first.groups)
      if (f.problem.id == g.problem.id) before = total_length(f);
    ASSERT_GT(before, 0) << "the pool has six problems";
    const double mean = (before + total_length(g)) / 12;
    for (const SampledReply& r : g.replies) EXPECT_EQ(r.reward, static_cast<double>(r.tokens.size()) <= mean ? 1 : 0);
  }
}

TEST(Effort, ARunWithEffortsAndWaitingRepliesResumes) {
  const std::string yaml = tiny_run("preset: grpo, steps: 4, prompts: 4, group_size: 4, lr: 1e-3, patience: 1000, sampling: {max_tokens: 12}, carry_over: {tokens: 60}, "
                                    "prompt_pool: 5, reward: {format: 1}");
  const std::vector<std::string> more = {"+env.effort=[0.5, 1, 2]", "+env.budgets=[4, 8]"};
  TemporaryFolder whole, cut;
  train_in(whole.path(), yaml, more);
  train_in(cut.path(), yaml, more);
  for (const char* step : {"step-000003", "step-000004"}) std::filesystem::remove_all(cut.path() / "checkpoints" / step);
  std::filesystem::remove(cut.path() / "checkpoints" / "latest");
  train_in(cut.path(), yaml, more);
  const auto parameters = [](const auto& run) { return CheckpointFolder(run.path() / "checkpoints").load("latest").state.at("parameters").bytes; };
  EXPECT_EQ(parameters(whole), parameters(cut));
}

}  // namespace
}  // namespace trimtab
