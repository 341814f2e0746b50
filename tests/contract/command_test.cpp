// The command as a user meets it: every verb's help, exit codes, and one clear sentence on standard error.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/command.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/contract/command_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

class CommandTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("trimtab_command_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string file(const std::string& name, const std::string& contents) {
    std::ofstream(folder_ / name, std::ios::binary) << contents;
    return (folder_ / name).string();
  }
  fs::path folder_;
};

TEST(Command, EveryVerbOfTheDesignIsThere) {
  const std::vector<std::string> names = Registry<Verb>::instance().names();
  for (const char* verb : {"train", "eval", "generate", "export", "report", "inspect", "bench", "doctor",
                           "list", "help", "completion"})
    EXPECT_NE(std::find(names.begin(), names.end(), verb), names.end()) << verb;
}

TEST(Command, EveryVerbHasHelpAndCompletion) {
  const Answer bash = command({"completion", "bash"}), fish = command({"completion", "fish"});
  EXPECT_EQ(bash.code, 0);
  EXPECT_EQ(command({"completion", "zsh"}).code, 0);
  for (const std::string& name : Registry<Verb>::instance().names()) {
    const Answer answer = command({name, "--help"});
    EXPECT_EQ(answer.code, 0) << name;
    EXPECT_NE(answer.out.find(Registry<Verb>::instance().get(name, "verb").doc), std::string::npos)
        << answer.out;
    EXPECT_NE(bash.out.find("    " + name + ") options="), std::string::npos) << name;
    EXPECT_NE(fish.out.find("-a " + name), std::string::npos) << name;
  }
}

TEST(Command, EveryUnitHasHelp) {
  const nlohmann::json units = nlohmann::json::parse(command({"list", "--json"}).out);
  for (const char* kind : {"envs", "policies", "trainers"}) {
    EXPECT_GT(units[kind].size(), 0u) << kind;
    for (const auto& unit : units[kind]) {
      EXPECT_FALSE(unit["doc"].get<std::string>().empty()) << unit;
      const Answer answer = command({"help", unit["name"], "--json"});
      ASSERT_EQ(answer.code, 0) << unit << answer.err;
      for (const auto& key : nlohmann::json::parse(answer.out))
        EXPECT_FALSE(key["doc"].get<std::string>().empty()) << key;
    }
  }
}

TEST_F(CommandTest, GoldenExitCodes) {
  struct Case {
    std::vector<std::string> words;
    int code;
    std::string says;  // part of the sentence on standard error
  };
  const std::string text = file("a.h5", "this is not HDF5"), empty = file("b.safetensors", "");
  const std::string yaml = file("c.yaml", "run: {name: x, sed: 1}\n");
  const std::vector<Case> cases = {
      {{"--version"}, 0, ""},
      {{"list"}, 0, ""},
      {{}, 2, "--help"},
      {{"trian", "x"}, 2, "--help"},
      {{"list", "--nonsense"}, 2, "--nonsense"},
      {{"list", "env"}, 2, "did you mean 'envs'"},
      {{"help", "mapppo"}, 2, "did you mean 'mappo'"},
      {{"completion", "tcsh"}, 2, "bash, zsh or fish"},
      {{"inspect"}, 2, "one file"},
      {{"inspect", (folder_ / "absent.h5").string()}, 3, "no such file"},
      {{"inspect", text}, 3, "a.h5"},
      {{"inspect", text, "--json"}, 3, "a.h5"},
      {{"inspect", text, "num_prbs=51"}, 2, "did you mean 'num_prb'"},
      {{"inspect", empty}, 3, "b.safetensors"},
      {{"inspect", folder_.string()}, 3, "neither a run folder nor a checkpoint"},
      {{"train"}, 2, "one configuration"},
      {{"train", (folder_ / "absent.yaml").string()}, 2, "absent.yaml"},
      {{"train", yaml}, 2, "c.yaml:1:"},
      {{"train", yaml, "--seeds", "5..1"}, 2, ""},
      {{"eval"}, 2, "a run folder, an exported artefact, or none"},
      {{"eval", "none"}, 2, "env.type=NAME"},
      {{"eval", "none", "env.type=prb_power"}, 2, "--data"},
      {{"eval", "none", "env.type=draft_tree", "env.mode=synthetic"}, 2, "env.mode=replay"},
      {{"eval", "none", "--data", (folder_ / "absent.h5").string(), "trainer.lr=1"},
       2,
       "can only change the environment"},
      {{"eval", "none", "runs/x", "--data", text}, 2, "none stands alone"},
      {{"eval", (folder_ / "run").string(), "--data", text}, 3, "no such run folder"},
      {{"eval", "none", "--data", text, "--samples", "2"}, 2, "language runs"},
      {{"generate"}, 2, "one model"},
      {{"generate", "x"}, 2, "--prompt"},
      {{"generate", "x", "--prompt", "a", "--prompts", text}, 2, "keep one"},
      {{"generate", "x", "--prompts", (folder_ / "absent.jsonl").string()}, 3, "absent.jsonl"},
      {{"generate", "x", "--prompts", text}, 3, "a.h5:1: not a JSON object"},
      {{"generate", "x", "--prompts", empty}, 3, "no prompts in it"},
      {{"generate", "x", "--prompt", "a", "--samples", "0"}, 2, "--samples"},
      {{"report"}, 2, "which run"},
      {{"report", (folder_ / "run").string()}, 3, "no such run folder"},
      {{"report", folder_.string()}, 3, "train or evaluate first"},
      {{"export"}, 2, ""},
      {{"export", (folder_ / "run").string(), "--to", "ttc", "--out", folder_.string()},
       3,
       "no such run folder"},
      {{"bench", "no_such_benchmark"}, 2, "no_such_benchmark"},
  };
  for (const Case& c : cases) {
    std::string shown;
    for (const std::string& word : c.words) shown += " " + word;
    const Answer answer = command(c.words);
    EXPECT_EQ(answer.code, c.code) << shown << "\n" << answer.err;
    EXPECT_NE(answer.err.find(c.says), std::string::npos) << shown << "\n" << answer.err;
    if (c.code != 0) {
      EXPECT_TRUE(answer.err.starts_with("trimtab: ")) << shown << "\n" << answer.err;
      EXPECT_EQ(std::count(answer.err.begin(), answer.err.end(), '\n'), 1) << shown << "\n" << answer.err;
    }
  }
}

// A horizon of 0 is a whole episode: 500 steps of cart-pole, 4 instances, so 2000 rows in an update.
TEST_F(CommandTest, DryRunPlansWholeEpisodes) {
  const std::string config = file("plan.yaml", "run: {name: plan}\nenv: {type: cartpole}\ntrainer: {preset: ppo, steps: 5000, num_envs: 4, horizon: 0}\n");
  const Answer answer = command({"train", config, "--dry-run"});
  EXPECT_EQ(answer.code, 0) << answer.err;
  EXPECT_NE(answer.out.find("4 instances x horizon 500 = 2 000 per update"), std::string::npos) << answer.out;
}

TEST_F(CommandTest, TrainingAgainRecordsTheResume) {
  const std::string yaml =
      file("c.yaml", "run: {name: job, out: " + (folder_ / "runs").string() +
                         ", threads: 1}\nenv: {type: cartpole}\npolicy: {cart: {hidden: [4]}}\n"
                         "trainer: {steps: 64, num_envs: 2, horizon: 16, epochs: 1}\neval: {episodes: 0}\n");
  Answer answer = command({"train", yaml});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const fs::path run = fs::directory_iterator(folder_ / "runs")->path();
  const auto provenance = [&] { return nlohmann::json::parse(read_file(run / "provenance.json")); };
  EXPECT_FALSE(provenance().contains("resumes"));

  fs::remove(run / "finished");  // as if it had been stopped after its last checkpoint
  answer = command({"train", yaml});
  ASSERT_EQ(answer.code, 0) << answer.err;
  ASSERT_EQ(provenance()["resumes"].size(), 1u) << answer.out;
  EXPECT_EQ(provenance()["resumes"][0]["step"], 64);

  fs::remove(run / "finished");  // as if before its first one: it starts over, and that is recorded, too
  fs::remove_all(run / "checkpoints");
  answer = command({"train", yaml});
  ASSERT_EQ(answer.code, 0) << answer.err;
  ASSERT_EQ(provenance()["resumes"].size(), 2u) << answer.out;
  EXPECT_EQ(provenance()["resumes"][1]["step"], 0);
  EXPECT_EQ(provenance()["resumes"][1]["version"], TRIMTAB_VERSION);
}

TEST_F(CommandTest, AnEnvironmentThatMakesItsDataIsEvaluatedWithoutAFile) {
  const Answer answer = command({"eval", "none", "env.type=draft_serving", "env.mode=synthetic", "env.low_rate=8", "env.high_rate=8", "--episodes", "1", "--json", "-"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const nlohmann::json expected = {{{"file", "synthetic"}, {"sha256", ""}, {"split", "synthetic"}, {"episodes", 1}}};
  EXPECT_EQ(nlohmann::json::parse(answer.out).at("data"), expected);
}

TEST_F(CommandTest, InspectDescribesTensors) {
  TensorFile contents;
  const std::vector<float> values = {1, -2, 3};
  contents.tensors["w"] = Tensor::f32({3}, values);
  contents.metadata["what"] = "{\"a\": 1}";
  write_safetensors(folder_ / "w.safetensors", contents);
  const Answer answer = command({"inspect", (folder_ / "w.safetensors").string(), "--json"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const nlohmann::json out = nlohmann::json::parse(answer.out);
  EXPECT_EQ(out["tensors"][0]["name"], "w");
  EXPECT_EQ(out["tensors"][0]["min"], -2);
  EXPECT_EQ(out["metadata"]["what"]["a"], 1);
  EXPECT_EQ(out["hash"], hash_file(folder_ / "w.safetensors"));
}

TEST(Command, OverridesAreToldFromFiles) {
  std::vector<std::string> words = {"env.a=1", "~env.b", "+c.d=x=y", "runs/a=b", "file.h5", "=", "a b=c"};
  EXPECT_EQ(take_overrides(words), (std::vector<std::string>{"env.a=1", "~env.b", "+c.d=x=y"}));
  EXPECT_EQ(words, (std::vector<std::string>{"runs/a=b", "file.h5", "=", "a b=c"}));
}

}  // namespace
}  // namespace trimtab
