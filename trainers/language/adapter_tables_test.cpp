// Quality tables: what each adapter's own answers score, embeddings that are the prompt's own, and tables that adapter_route replays.
#include "trainers/language/adapter_tables.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "core/files.h"
#include "domain/tasks/answers.h"
#include "envs/adapter_route/tables.h"
#include "trainers/language/job.h"
#include "trainers/language/test_support.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

const std::string kSft = "preset: sft, steps: 3, rows: 6, facts: 1, clean: 1, lr: 3e-2";

class AdapterTables : public testing::Test {
 protected:
  AdapterTables() {
    train_in(base, tiny_run("preset: sft, steps: 2, rows: 4"));
    as_run(base, {});
    const std::vector<std::string> lora = {"policy.model=" + base.string(), "policy.lora={rank: 3, alpha: 6}"};
    train_in(folder.path() / "trained", tiny_run(kSft), lora);
    std::vector<std::string> idle = lora;
    idle.push_back("trainer.lr=0");
    train_in(folder.path() / "idle", tiny_run(kSft), idle);
    write_file_atomically(prompts, "{\"prompt\": \"1+2=\", \"answer\": \"3\", \"category\": \"short\"}\n{\"prompt\": \"4+5-1=\", \"answer\": \"8\", \"category\": \"long\"}\n"
                                   "{\"prompt\": \"2*3=\", \"answer\": \"6\", \"category\": \"short\"}\n");
  }
  static void as_run(const std::filesystem::path& run, const std::vector<std::string>& overrides) {
    Config config = Config::parse(tiny_run(kSft), "tiny");
    for (const std::string& text : overrides) config.apply(text);
    write_file_atomically(run / "config.yaml", LanguageJob(config).resolved());
  }
  AdapterTableOrder order() const {
    return {.model = {base.string()}, .adapters = {(folder.path() / "trained").string(), (folder.path() / "idle" / "adapter").string()}, .prompts = {prompts.string()}, .max_tokens = 16,
            .embedding = 5, .threads = 2};
  }
  void expect_refused(const AdapterTableOrder& wrong, const std::string& expected) const {
    try {
      record_adapters(wrong);
      ADD_FAILURE() << "accepted: " << expected;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
  TemporaryFolder folder;
  const std::filesystem::path base = folder.path() / "base", prompts = folder.path() / "prompts.jsonl";
};

// A router that serves meets a prompt as its table has it.
TEST_F(AdapterTables, PromptsAreEmbeddedWithoutAnswersAsWithThem) {
  const Recording table = record_adapters(order());
  const std::span<const float> rows = table.f32("embedding", 5);
  const std::filesystem::path asked = folder.path() / "asked.jsonl";
  write_file_atomically(asked, "{\"prompt\": \"2*3=\", \"category\": \"short\"}\n{\"prompt\": \"4+5-1=\"}\n");
  const std::vector<EmbeddedPrompt> embedded = embed_requests({.model = {base.string()}, .prompts = {asked.string()}, .size = 5});
  ASSERT_EQ(embedded.size(), 2u);
  EXPECT_EQ(embedded[0].text, "2*3=");
  EXPECT_EQ(embedded[0].task, "short");
  EXPECT_EQ(embedded[0].embedding, std::vector<float>(rows.begin() + 5, rows.begin() + 10));    // short's second
  EXPECT_EQ(embedded[1].embedding, std::vector<float>(rows.begin() + 10, rows.begin() + 15));   // long's first
  write_file_atomically(asked, "{\"tokens\": [1, 2]}\n");
  try {
    embed_requests({.model = {base.string()}, .prompts = {asked.string()}});
    ADD_FAILURE() << "accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("asked.jsonl:1: a request for a server is a text"), std::string::npos) << error.what();
  }
}

TEST_F(AdapterTables, AreGroupedByCategoryAndReadByTheEnvironment) {
  const Recording table = record_adapters(order());
  ASSERT_EQ(table.rows(), 3);
  ASSERT_EQ(table.episodes.size(), 2u);
  EXPECT_EQ(table.episodes[0].labels.at("task"), "short");
  EXPECT_EQ(table.episodes[0].rows, 2);
  EXPECT_EQ(table.episodes[1].labels.at("task"), "long");
  EXPECT_EQ(table.fact("ranks"), "3 3");
  const std::span<const float> quality = table.f32("quality", 3);
  for (int64_t r = 0; r < 3; ++r) EXPECT_EQ(quality[r * 3 + 1], quality[r * 3 + 2]) << "an adapter that changes nothing answers as the base model";
  const std::filesystem::path file = folder.path() / "table.safetensors";
  write_recording(file, table);
  const auto source = recorded_qualities({file.string()});
  EXPECT_EQ(source->adapters(), 2);
  EXPECT_EQ(source->dimension(), 6);
}

// Right answers are numbers that the adapter is known to give at this seed, so that a tiny model that knows nothing is right now and then.
TEST_F(AdapterTables, QualityIsTheVerdictOnEachAdaptersAnswer) {
  as_run(base, {"~env.suite", "data.train=[" + prompts.string() + "]"});   // answers are compared as free text
  LanguageModel model = LanguageModel::load(base);
  model.transformer = std::make_unique<Transformer>(model.transformer->with_adapter(folder.path() / "trained" / "adapter"));
  const Config config = Config::load(base / "config.yaml");
  const auto environment = LanguageJob(config).make_environment(config.at("env"));
  std::vector<Problem> problems = {{.id = "a", .prompt = "1+2=", .answer = "3"}, {.id = "b", .prompt = "2*3=", .answer = "6"}, {.id = "c", .prompt = "4+5-1=", .answer = "8"}};
  Pool pool(1);
  const auto answered = [&] {
    return evaluate_language(model, *environment, {.problems = problems, .samples = 8, .sampling = {.max_tokens = 16, .temperature = 1}, .seed = 1, .progress = {}}, pool);
  };
  const std::vector<std::string> replies = answered().text;
  std::string lines;
  for (size_t r = 0; r < problems.size(); ++r) {
    for (size_t i = 0; i < 8; ++i)
      if (const auto number = find_answer(replies[8 * r + i])) problems[r].answer = *number;
    lines += nlohmann::json{{"prompt", problems[r].prompt}, {"answer", problems[r].answer}, {"category", r < 2 ? "short" : "long"}}.dump() + "\n";
  }
  write_file_atomically(prompts, lines);
  AdapterTableOrder sampled = order();
  sampled.samples = 8, sampled.temperature = 1;
  const Recording table = record_adapters(sampled);
  const std::span<const float> quality = table.f32("quality", 3);
  const std::span<const float> formed = table.f32("well_formed", 3);
  const std::vector<double> outcome = answered().outcome;
  EXPECT_GT(std::accumulate(outcome.begin(), outcome.end(), 0.0), 0);
  for (int64_t r = 0; r < 3; ++r) {
    EXPECT_NEAR(quality[r * 3], std::accumulate(outcome.begin() + 8 * r, outcome.begin() + 8 * r + 8, 0.0) / 8, 1e-6);
    const auto in_form = [&](size_t i) { return outcome[i] > 0 || boxed_answer(replies[i]).has_value() || hash_answer(replies[i]).has_value(); };
    int shares = 0;
    for (int64_t i = 8 * r; i < 8 * r + 8; ++i) shares += in_form(static_cast<size_t>(i));
    EXPECT_FLOAT_EQ(formed[r * 3], static_cast<float>(shares) / 8);
  }
}

TEST_F(AdapterTables, AnEmbeddingIsThePromptsOwn) {
  const LanguageModel model = LanguageModel::load(base);
  const std::vector<std::vector<int32_t>> asked = {{1, 2, 3}, {4, 5}, {1, 2, 3, 6}};
  const std::vector<float> all = embed_prompts(*model.transformer, asked, 5), one = embed_prompts(*model.transformer, {asked[1]}, 5), narrow = embed_prompts(*model.transformer, {asked[0]}, 2);
  ASSERT_EQ(all.size(), 15u);
  for (int k = 0; k < 5; ++k) EXPECT_NEAR(all[5 + k], one[k], 1e-5);
  for (int k = 0; k < 2; ++k) EXPECT_NEAR(all[k], narrow[k], 1e-5) << "fewer numbers are the first of more";
}

TEST_F(AdapterTables, MistakesAreNamed) {
  AdapterTableOrder wrong = order();
  wrong.adapters[0] = "/nowhere";
  expect_refused(wrong, "/nowhere");
  wrong = order();
  wrong.adapters[0] = base.string();
  expect_refused(wrong, base.string());
  wrong = order();
  const std::filesystem::path other = folder.path() / "other.jsonl";
  write_file_atomically(other, "{\"prompt\": \"1+2=\"}\n");
  wrong.prompts = {other.string()};
  expect_refused(wrong, other.string());
}

TEST_F(AdapterTables, AnotherModelsAdapterIsRefused) {
  AdapterTableOrder wrong = order();
  const std::filesystem::path other = folder.path() / "other";
  train_in(other, tiny_run("preset: sft, steps: 2, rows: 4"), {"run.seed=7"});   // the same shapes
  as_run(other, {});
  wrong.model.path = other.string();
  expect_refused(wrong, base.string());
  expect_refused(wrong, "(the model is " + other.string() + ")");
}

TEST_F(AdapterTables, NamesTellAdaptersApart) {
  AdapterTableOrder wrong = order();
  wrong.adapters.push_back("elsewhere/trained/");
  expect_refused(wrong, "'trained'");
  expect_refused(wrong, "elsewhere/trained/");
  wrong = order();
  wrong.adapters[0] = "some/my sql/adapter";
  expect_refused(wrong, "'my sql'");
}

}  // namespace
}  // namespace trimtab
