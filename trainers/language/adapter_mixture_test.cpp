// Runs that train a mixture over adapters: what they report and write, resuming, mistakes.
#include <gtest/gtest.h>

#include "core/checkpoint.h"
#include "core/error.h"
#include "core/files.h"
#include "policies/language/adapter_mixture/mixture.h"
#include "policies/language/pretrained.h"
#include "trainers/language/job.h"
#include "trainers/language/mixture_test_support.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

class AdapterMixtureRun : public testing::Test, protected BaseAndAdapters {
 protected:
  static std::string yaml() { return tiny_run("preset: adapter_mixture, steps: 4, rows: 6, episodes: 5, max_tokens: 9"); }
};

std::vector<uint8_t> routers(const std::filesystem::path& run) {
  return CheckpointFolder(run / "checkpoints").load("latest").state.at("mixture.routers").bytes;
}

TEST_F(AdapterMixtureRun, TrainsTheRoutersAndReportsTheMixture) {
  const TemporaryFolder run;
  const MetricLines lines = train_in(run.path(), yaml(), options());
  ASSERT_EQ(lines.front().at("step"), 0);   // before training
  for (const char* name : {"mixture/adapter_1_alone", "mixture/adapter_2_alone", "mixture/any_adapter_alone", "mixture/accuracy", "eval/greedy_accuracy"}) EXPECT_TRUE(lines.front().contains(name)) << name;
  EXPECT_FALSE(lines.back().contains("mixture/adapter_1_alone"));
  EXPECT_TRUE(lines.back().contains("mixture/accuracy"));
  EXPECT_GT(total(lines, "mixture/tokens"), 3 * 1.5);   // of three evaluations: an answer is no single token
  EXPECT_GT(total(lines, "train/grad_norm"), 0);
  EXPECT_EQ(lines[1].at("train/soft_share"), 1);   // even routers know nothing
  EXPECT_NEAR(lines[1].at("train/weight_1") + lines[1].at("train/weight_2"), 1, 1e-5);
  const LanguageModel base_model = LanguageModel::load(base());
  const AdapterMixture mixture = AdapterMixture::read(*base_model.transformer, run.path() / "mixture");
  EXPECT_EQ(mixture.experts(), 2);
  as_run(run.path());
  EXPECT_TRUE(LanguageModel::load(run.path()).transformer->flat().equal(base_model.transformer->flat()));   // frozen
}

// But for what is of the machine.
MetricLines results(MetricLines lines) {
  for (auto& line : lines) std::erase_if(line, [](const auto& metric) { return metric.first.starts_with("time/") || metric.first.starts_with("memory/"); });
  return lines;
}

TEST_F(AdapterMixtureRun, IsTheSameForAnyThreadsAndAfterAStop) {
  const TemporaryFolder whole, cut;
  std::vector<std::string> with = options();
  const MetricLines lines = results(train_in(whole.path(), yaml(), with));
  train_in(cut.path(), yaml(), with);
  std::filesystem::remove_all(cut.path() / "checkpoints" / "step-000003");
  std::filesystem::remove_all(cut.path() / "checkpoints" / "step-000004");
  std::filesystem::remove(cut.path() / "checkpoints" / "latest");
  EXPECT_EQ(results(train_in(cut.path(), yaml(), with)), MetricLines(lines.end() - 2, lines.end()));
  EXPECT_EQ(routers(whole.path()), routers(cut.path()));
  for (const char* threads : {"1", "8"}) {
    const TemporaryFolder other;
    with.push_back(std::string("run.threads=") + threads);
    EXPECT_EQ(results(train_in(other.path(), yaml(), with)), lines) << threads;
    EXPECT_EQ(routers(whole.path()), routers(other.path())) << threads;
  }
}

TEST_F(AdapterMixtureRun, NumbersThatAreNoneEndItOrAreLeftOut) {
  const std::filesystem::path damaged = root_.path() / "two" / "adapter" / "adapter_model.safetensors";
  TensorFile file = read_safetensors(damaged);
  for (auto& [name, tensor] : file.tensors) std::fill(tensor.bytes.begin(), tensor.bytes.end(), 0x7f);   // 3e38 in every format: two of them multiply to no number
  write_safetensors(damaged, file);
  std::vector<std::string> with = options();
  with.push_back("eval.episodes=0");
  const TemporaryFolder run;
  try {
    train_in(run.path(), yaml(), with);
    FAIL() << "trained";
  } catch (const RunError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("the loss is not finite; lower trainer.lr, or look at the batch: "), std::string::npos) << message;
    EXPECT_NE(message.find("nonfinite.safetensors"), std::string::npos) << message;
    EXPECT_TRUE(std::filesystem::exists(run.path() / "nonfinite.safetensors"));
  }
  with.push_back("+trainer.guard.non_finite=skip");
  EXPECT_EQ(train_in(run.path(), yaml(), with).back().at("guard/not_finite"), 4);
  const std::vector<uint8_t> untouched = routers(run.path());
  EXPECT_EQ(untouched, std::vector<uint8_t>(untouched.size()));   // they begin at 0
}

TEST_F(AdapterMixtureRun, SpikesAreLeftOut) {
  const TemporaryFolder run;
  const std::string trainer = "preset: adapter_mixture, steps: 40, rows: 1, lr: 1e-5, guard: {spike: 0.01, window: 16}";
  std::vector<std::string> with = options();
  with.push_back("eval.episodes=0");
  EXPECT_GT(train_in(run.path(), tiny_run(trainer), with).back().at("guard/spikes"), 0);
}

TEST_F(AdapterMixtureRun, AdaptersOfAnotherBaseAreRefused) {
  const TemporaryFolder run, other;   // the same shapes, other weights
  train_in(other.path(), tiny_run("preset: sft, steps: 2, rows: 4"), {"run.seed=7"});
  as_run(other.path());
  std::vector<std::string> with = options();
  with[0] = "policy={model: " + other.path().string() + "}";
  try {
    train_in(run.path(), yaml(), with);
    FAIL();
  } catch (const DataError& error) {
    for (const std::string& name : {base().string(), other.path().string(), std::string("adapter_model.safetensors")}) EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
  }
}

// `generate` and `eval` take such a run for its mixture, not for the frozen base that lies beside it.
TEST_F(AdapterMixtureRun, AnswersWhereToolsTakeTheRun) {
  const TemporaryFolder run;
  train_in(run.path(), yaml(), options());
  Config config = Config::parse(yaml(), "tiny");
  for (const std::string& text : options()) config.apply(text);
  write_file_atomically(run.path() / "config.yaml", LanguageJob(config).resolved());

  const LanguageTools& tools = Registry<LanguageTools>::instance().get("libtorch", "language tools");
  GenerateOrder order{.model = {run.path().string()}, .prompts = {}, .max_tokens = 9, .temperature = 0, .instruction = {}, .stop = {}};
  for (const char* text : {"1+2=", "3+4=", "9-5=", "2+2-1=", "7="}) order.prompts.push_back({.place = "a test", .text = text, .tokens = {}});
  const std::vector<GeneratedText> texts = tools.generate(order);
  ASSERT_EQ(texts.size(), 5u);
  const LanguageModel base_model = LanguageModel::load(base());
  const AdapterMixture mixture = AdapterMixture::read(*base_model.transformer, run.path() / "mixture");
  for (const GeneratedText& t : texts) {
    std::vector<int32_t> all = mixture.complete(std::span(&t.prompt_tokens, 1), 9, [](size_t, std::span<const int32_t>) { return false; })[0];
    ASSERT_FALSE(t.tokens.empty());
    EXPECT_TRUE(t.stopped || t.tokens.size() == 9);
    all.resize(t.tokens.size());
    EXPECT_EQ(t.tokens, all);
  }
  order.model.path = base().string();
  const std::vector<GeneratedText> of_base = tools.generate(order);
  bool differ = false;
  for (size_t i = 0; i < 5; ++i) differ = differ || of_base[i].tokens != texts[i].tokens;
  EXPECT_TRUE(differ);

  LanguageEvaluationOrder evaluation{.config = config, .runs = {{run.path().string()}}, .start = base().string(), .files = {}, .allow_validation = false, .episodes = 6, .max_tokens = 9};
  const LanguageScores scores = tools.evaluate(evaluation);
  ASSERT_EQ(scores.policies.size(), 3u);
  EXPECT_EQ(scores.policies[0].policy.name, "greedy");
  EXPECT_EQ(scores.policies[1].policy.name, "start");
  for (const auto& policy : scores.policies) EXPECT_EQ(policy.values[0][0].size(), 6u);

  const auto refused = [&](GenerateOrder wrong) -> std::string {
    try {
      tools.generate(wrong);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  };
  order.model.path = run.path().string();
  GenerateOrder drawn = order, older = order;
  drawn.temperature = 1, older.model.checkpoint = "2";
  EXPECT_NE(refused(drawn).find("--temperature 0"), std::string::npos);
  EXPECT_NE(refused(older).find("--checkpoint"), std::string::npos);
}

TEST_F(AdapterMixtureRun, MistakesAreNamed) {
  const auto message = [&](std::vector<std::string> more) -> std::string {
    const TemporaryFolder run;
    std::vector<std::string> all = options();
    all.insert(all.end(), more.begin(), more.end());
    try {
      train_in(run.path(), yaml(), all);
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(message({"trainer.adapters=[]"}).find("adapters"), std::string::npos);
  EXPECT_NE(message({"trainer.adapters=[/nowhere]"}).find("adapter_config.json"), std::string::npos);
  EXPECT_NE(message({"trainer.routing.keep=0"}).find("keep"), std::string::npos);
  EXPECT_NE(message({"policy.lora.rank=2"}).find("trainer.adapters"), std::string::npos);
  EXPECT_NE(message({"trainer.max_tokens=500"}).find("positions"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
