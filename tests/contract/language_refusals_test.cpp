// Bad input of language runs: each is one sentence that names file or key, place and cure.
#include "core/safetensors.h"
#include "tests/contract/language_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TEST_F(LanguageTest, DamagedModelsAreRefused) {
  const auto generate = [](const std::string& model) {
    return command({"generate", model, "--prompt", "1+1="});
  };
  expect_says(generate(path("absent")), 3, {"absent", "no such folder"});

  std::string m = model_copy("cut");
  fs::resize_file(m + "/model.safetensors", fs::file_size(m + "/model.safetensors") / 2);
  expect_says(generate(m), 3, {"cut/model.safetensors"});
  expect_says(command({"inspect", m}), 3, {"cut/model.safetensors"});
  expect_says(try_train("from-cut", kTinyRl, {"policy.model=" + m}), 3, {"cut/model.safetensors"});

  m = model_copy("no-weights");
  fs::remove(m + "/model.safetensors");
  expect_says(generate(m), 3, {"no-weights", "model.safetensors"});

  m = model_copy("shards");
  fs::remove(m + "/model.safetensors");
  file("shards/model.safetensors.index.json",
       R"({"weight_map": {"model.norm.weight": "model-1.safetensors"}})");
  expect_says(generate(m), 3, {"shards", "model-1.safetensors", "missing"});

  m = model_copy("config");
  file("config/config.json", "{\"model_type\": ");
  expect_says(generate(m), 3, {"config/config.json", "JSON"});

  m = model_copy("nan");
  TensorFile tensors = read_safetensors(m + "/model.safetensors");
  std::fill_n(tensors.tensors.at("model.norm.weight").bytes.data(), 4, 0xff);
  write_safetensors(m + "/model.safetensors", tensors);
  expect_says(generate(m), 3, {"nan/model.safetensors", "model.norm.weight", "finite"});
}

TEST_F(LanguageTest, DamagedTokenizersAreRefused) {
  const auto generate = [](const std::string& model) {
    return command({"generate", model, "--prompt", "1+1="});
  };
  std::string m = model_copy("none");
  fs::remove(m + "/tokenizer.json");
  expect_says(generate(m), 3, {"none", "tokenizer.json"});
  m = model_copy("broken");
  file("broken/tokenizer.json", "{\"model\": [");
  expect_says(generate(m), 3, {"broken/tokenizer.json"});

  // A model with fewer rows than the tokenizer has tokens.
  const std::string small = train("small", std::string(kTinyRun), {"env.suite.type=sorting"}),
                    both = path("both");
  fs::copy(small + "/model", both);
  const std::string wide = model_copy("wide");
  const auto tokens = [](const std::string& folder) {
    return json::parse(command({"inspect", folder, "--json"}).out)["tokenizer"]["tokens"].get<int>();
  };
  const bool small_is_smaller = tokens(both) < tokens(wide);
  ASSERT_NE(tokens(both), tokens(wide));
  const std::string model = small_is_smaller ? both : wide, tokenizer = small_is_smaller ? wide : both;
  fs::copy(tokenizer + "/tokenizer.json", model + "/tokenizer.json", fs::copy_options::overwrite_existing);
  expect_says(generate(model), 3, {"tokenizer.json has", "vocab_size", "belong together"});
}

TEST_F(LanguageTest, PromptsThatCannotBeAreTold) {
  const std::string m = model_copy("m");
  const auto generate = [&](const std::string& lines) {
    return command({"generate", m, "--prompts", file("p.jsonl", lines), "--max-tokens", "40"});
  };
  const std::string good = "{\"prompt\": \"1+1=\"}\n";
  expect_says(generate(good + json{{"prompt", std::string(60, '1')}}.dump()), 3,
              {"p.jsonl:2:", "60 tokens", "96 positions", "40"});
  expect_says(generate(good + "\n{\"tokens\": [1, 5000]}"), 3, {"p.jsonl:3:", "5000", "vocabulary"});
  expect_says(generate("{\"tokens\": [1, -1]}"), 3, {"p.jsonl:1:", "-1"});
  expect_says(generate("{\"tokens\": []}"), 3, {"p.jsonl:1:", "one or more"});
  expect_says(generate(good + "{\"prompt\": 1}"), 3, {"p.jsonl:2:", "must be text"});
  expect_says(generate(good + "{\"prompt\": \"1\", \"tokens\": [1]}"), 3, {"p.jsonl:2:", "keep one"});
  expect_says(generate("{\"answer\": \"1\"}"), 3, {"p.jsonl:1:", "'prompt'"});
  expect_says(generate("{\"prompt\": \"1"), 3, {"p.jsonl:1:", "not a JSON object"});
  expect_says(generate("\n \n"), 3, {"p.jsonl", "no prompts"});
  expect_says(generate(good + "{\"prompt\": \"\xc3\xa9\"}"), 3, {"p.jsonl:2:"});  // not in the alphabet
  expect_says(command({"generate", m, "--prompt", "1", "--chat", "chatml"}), 2, {"chatml"});
  expect_says(command({"generate", m, "--prompt", "1", "--chat", "vicuna"}), 2, {"vicuna", "chatml"});
  expect_says(command({"generate", m, "--prompt", "1", "--temperature", "-1"}), 2, {"temperature"});
}

TEST_F(LanguageTest, TrainingRefusesPromptsLongerThanTheContext) {
  const std::string model = "policy.model=" + train("tiny", kTinyRun);
  expect_says(try_train("a", kTinyRl, {model, "trainer.sampling.max_tokens=95", "eval.episodes=0"}), 3,
              {"training, problem '", "max_tokens 95", "96 positions"});
  expect_says(try_train("b", kTinyRl, {model, "eval.max_tokens=95"}), 3,
              {"evaluation, problem '", "max_tokens 95", "96 positions"});
}

TEST_F(LanguageTest, EmptyDataIsRefused) {
  const std::string model = "policy.model=" + train("tiny", kTinyRun);
  const auto with = [&](const std::string& data) {
    return try_train("run", kTinyRl, {model, "~env.suite", "+data.train=[" + data + "]"});
  };
  expect_says(with(file("empty.jsonl", "\n")), 3, {"empty.jsonl", "no problems"});
  expect_says(with(file("bad.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n{\"prompt\": \"1\"}\n")), 3,
              {"bad.jsonl:2:", "'answer' is missing"});
  expect_says(with(path("absent.jsonl")), 2, {"data.train.0", "absent.jsonl"});
  expect_says(try_train("none", kTinyRl, {model, "~env.suite"}), 2, {"suite", "data.train"});
}

TEST_F(LanguageTest, RewardProgramsMustGiveFiniteNumbers) {
  const std::string model = "policy.model=" + train("tiny", kTinyRun);
  const auto with = [&](const std::string& answer) {
    const std::string script =
        file("reward.sh", "while read line; do echo '{\"reward\": " + answer + "}'; done\n");
    return try_train("run", kTinyRl,
                     {model, "eval.episodes=0", "+env.reward={command: [sh, " + script + "]}"});
  };
  expect_says(with("NaN"), 4, {"reward", "NaN"});
  expect_says(with("1e999"), 4, {"reward"});
  expect_says(with("\"good\""), 4, {"reward", "number"});
}

TEST_F(LanguageTest, NothingToLearnFromEndsTheRun) {
  const std::string model = "policy.model=" + train("tiny", kTinyRun);
  const std::string script = file("zero.sh", "while read line; do echo '{\"reward\": 0}'; done\n");
  const std::string reward = "+env.reward={command: [sh, " + script + "]}";
  expect_says(try_train("a", kTinyRl, {model, reward, "eval.episodes=0", "+trainer.dynamic_sampling=3"}), 4,
              {"3 batches of 2 prompts", "such as '", "env"});
  expect_says(
      try_train("b", kTinyRl, {model, reward, "eval.episodes=0", "trainer.steps=9", "+trainer.patience=2"}),
      4, {"2 updates in a row", "problems such as '"});
}

TEST_F(LanguageTest, AGroupOfOneHasNoDeviation) {
  const Answer answer = try_train("a", kTinyRl, {"trainer.group_size=1"});
  expect_says(answer, 2, {"a.yaml", "group_mean_std", "group_size to 2 or more"});
}

}  // namespace
}  // namespace trimtab
