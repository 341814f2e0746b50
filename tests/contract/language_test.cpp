// Language models by the command: generate and eval, their documents, and what held out means.
#include <algorithm>
#include <cmath>
#include <set>

#include "tests/contract/language_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json find(const json& rows, const json& keys) {
  for (const json& row : rows) {
    if (std::all_of(keys.items().begin(), keys.items().end(),
                    [&](const auto& item) { return row.at(item.key()) == item.value(); }))
      return row;
  }
  ADD_FAILURE() << "no row " << keys.dump();
  return {};
}

TEST_F(LanguageTest, GenerateGivesTokensLogprobsAndTexts) {
  const std::string run = train("tiny", kTinyRun), out = path("out.json");
  Answer answer = command({"generate", run, "--prompt", "7+4=", "--samples", "3", "--max-tokens", "9",
                           "--tokens", "--json", out});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const json completions = read_json(out)["completions"];
  ASSERT_EQ(completions.size(), 3u);
  for (const json& c : completions) {
    EXPECT_EQ(c["prompt"], "7+4=");
    EXPECT_EQ(c["prompt_tokens"].size(), 4u);
    EXPECT_EQ(c["tokens"].size(), c["logprobs"].size());
    EXPECT_LE(c["tokens"].size(), 9u);
    EXPECT_TRUE(c["finish"] == "stop" || c["tokens"].size() == 9) << c;
    for (const json& logprob : c["logprobs"]) EXPECT_LE(logprob.get<double>(), 0);
    EXPECT_NE(answer.out.find(c["text"].get<std::string>()), std::string::npos);
  }

  // The same prompt as ids, from a file, through the model's own folder: the same completion.
  const std::string prompts =
      file("prompts.jsonl", "\n" + json{{"tokens", completions[0]["prompt_tokens"]}}.dump() + "\n");
  answer = command({"generate", run + "/model", "--prompts", prompts, "--max-tokens", "9", "--json", "-"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const json again = json::parse(answer.out)["completions"][0];
  EXPECT_EQ(again["tokens"], completions[0]["tokens"]);
  EXPECT_EQ(again["logprobs"], completions[0]["logprobs"]);
  EXPECT_EQ(again["prompt"], "7+4=");
}

TEST_F(LanguageTest, GreedyIsTheSameWhateverSeedAndThreads) {
  const std::string run = train("tiny", kTinyRun);
  const auto texts = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"generate", run,      "--prompt", "1+1=",         "--temperature",
                                      "0",        "--json", "-",        "--max-tokens", "12"};
    words.insert(words.end(), more.begin(), more.end());
    return command(words).out;
  };
  const std::string one = texts({"--threads", "1"});
  EXPECT_NE(one.find("completions"), std::string::npos);
  EXPECT_EQ(one, texts({"--threads", "3", "--seed", "9"}));
}

TEST_F(LanguageTest, CheckpointsOfARunDiffer) {
  const std::string run = train("tiny", kTinyRun, {"trainer.steps=2", "checkpoint.every=1"});
  const auto logprobs = [&](const std::string& checkpoint) {
    const Answer answer =
        command({"generate", run, "--prompt", "1+1=", "--checkpoint", checkpoint, "--json", "-"});
    EXPECT_EQ(answer.code, 0) << answer.err;
    return json::parse(answer.out)["completions"][0]["logprobs"];
  };
  EXPECT_EQ(logprobs("2"), logprobs("latest"));
  EXPECT_NE(logprobs("1"), logprobs("latest"));
  expect_says(command({"generate", run, "--prompt", "1", "--checkpoint", "7"}), 4, {"7", "1, 2"});
  expect_says(command({"generate", run + "/model", "--prompt", "1", "--checkpoint", "1"}), 2, {"no run"});
}

TEST_F(LanguageTest, EvalWritesTheDocumentOfControllers) {
  const std::string start = train("tiny", kTinyRun);
  const std::string model = "policy.model=" + start;
  const std::string one = train("rl-1", kTinyRl, {model}),
                    two = train("rl-2", kTinyRl, {model, "run.seed=2"});
  const std::string out = path("e.json");
  const Answer answer = command(
      {"eval", one, two, "--episodes", "6", "--samples", "2", "--json", out, "--report", path("r.html")});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const json e = read_json(out);
  EXPECT_EQ(e["environment"], "reasoning");
  EXPECT_EQ(e["seeds"], 2);
  EXPECT_EQ(e["reference"], "start");
  EXPECT_EQ(e["data"][0]["file"], "chained_arithmetic:test");
  EXPECT_EQ(e["data"][0]["episodes"], 6);
  EXPECT_EQ(e["data"][0]["split"], "held-out");
  EXPECT_EQ(e["data"][0]["sha256"].get<std::string>().size(), 64u);
  for (const char* name : {"sampled", "greedy", "start", "start_greedy"}) {
    const json row = find(e["policies"], {{"name", name}, {"file", ""}});
    EXPECT_EQ(row["kind"], std::string(name).starts_with("start") ? "baseline" : "learned");
    for (const char* metric : {"accuracy", "response_tokens", "truncated", "accuracy_tier_2"})
      EXPECT_EQ(row["metrics"][metric]["n"], 6) << metric;
    EXPECT_NE(answer.out.find(name), std::string::npos);
  }
  const json pass = find(e["policies"], {{"name", "sampled"}, {"file", ""}})["metrics"]["pass@2"];
  EXPECT_TRUE(pass["mean"].is_number());
  find(e["paired"], {{"policy", "sampled"}, {"against", "start"}, {"metric", "accuracy"}, {"file", ""}});
}

TEST_F(LanguageTest, EvalReadsProblemsFromFiles) {
  const std::string data = file("train.jsonl",
                                "{\"prompt\": \"2+2=\", \"answer\": \"4\"}\n"
                                "{\"prompt\": \"3+5=\", \"answer\": 8}\n");
  const std::string validation = file("val.jsonl", "{\"prompt\": \"4+4=\", \"answer\": 8}\n");
  const std::string start = train("tiny", kTinyRun);
  const std::string run = train("mine", kTinyRl,
                                {"policy.model=" + start, "~env.suite", "+data.train=[" + data + "]",
                                 "+data.validation=[" + validation + "]"});
  const std::string test = file("test.jsonl",
                                "{\"prompt\": \"9-1=\", \"answer\": \"8\"}\n"
                                "{\"prompt\": \"6-1=\", \"answer\": \"5\"}\n");
  const Answer answer = command({"eval", run, "--data", test, "--no-start"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const json e = read_json(run + "/evaluation.json");
  EXPECT_EQ(e["data"][0]["episodes"], 2);
  EXPECT_EQ(e["data"][0]["sha256"], sha256_file(test));
  EXPECT_EQ(e["reference"], "greedy");
  EXPECT_EQ(find(e["policies"], {{"name", "sampled"}, {"file", test}})["metrics"]["accuracy"]["n"], 2);

  // What training or validation saw is refused: the file itself, its prompts in another file, a changed file.
  expect_says(command({"eval", run}), 2, {"--data"});
  expect_says(command({"eval", run, "--data", data}), 3, {"train.jsonl", "manifest"});
  expect_says(command({"eval", run, "--data", validation}), 3, {"val.jsonl", "--allow-validation"});
  EXPECT_EQ(command({"eval", run, "--data", validation, "--allow-validation"}).code, 0);
  const std::string leak = file("leak.jsonl",
                                "{\"prompt\": \"9-1=\", \"answer\": 8}\n"
                                "{\"prompt\": \" 3+5=\", \"answer\": 8}\n");
  expect_says(command({"eval", run, "--data", leak}), 3, {"leak.jsonl", "line 2", "3+5="});
  file("train.jsonl", "{\"prompt\": \"2+2=\", \"answer\": \"4\"}\n");
  expect_says(command({"eval", run, "--data", test}), 3, {"train.jsonl", "has changed"});
}

TEST_F(LanguageTest, EvalRefusesPromptsOfTheSuitesTrainingSplit) {
  const std::string run = train("tiny", kTinyRun);
  std::string lines;  // some of so many prompts are of the training split
  for (int a = 0; a < 10; ++a)
    lines += json{{"prompt", fmt::format("{}+3*2=", a)}, {"answer", "1"}}.dump() + "\n";
  expect_says(command({"eval", run, "--data", file("mine.jsonl", lines)}), 3,
              {"mine.jsonl:", "training split"});
}

TEST_F(LanguageTest, HelpHasBothFamiliesAndInspectReadsAFolder) {
  const Answer help = command({"help", "grpo"});
  EXPECT_NE(help.out.find("Keys of grpo (controllers)"), std::string::npos);
  EXPECT_NE(help.out.find("Keys of grpo (language models)"), std::string::npos);
  const Answer answer = command({"inspect", model_copy("m"), "--json"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const json facts = json::parse(answer.out);
  EXPECT_EQ(facts["family"], "llama");
  EXPECT_EQ(facts["context"], 96);
  EXPECT_GT(facts["parameters"], 1000);
  EXPECT_EQ(facts["vocabulary"], facts["tokenizer"]["tokens"]);
}

}  // namespace
}  // namespace trimtab
