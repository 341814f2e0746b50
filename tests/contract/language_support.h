// A language model of a few thousand parameters and the files around it, for tests of the command. In a build
// without LibTorch the tests that need it are skipped.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/test_support.h"
#include "tests/contract/command_support.h"
#include "trainers/language_tools.h"

namespace trimtab {

// One supervised update of a new model; `train` and `changes` are words of the command.
inline const char* const kTinyRun = R"(
run: {name: tiny, threads: 2}
env: {type: reasoning, suite: {type: chained_arithmetic, tiers: [2]}}
policy: {architecture: {hidden_size: 16, num_layers: 1, num_heads: 2, max_positions: 96}}
trainer: {preset: sft, steps: 1, rows: 4, facts: 0, clean: 0}
eval: {episodes: 0, max_tokens: 40}
)";
// One update of RL on `policy.model`, which a test names.
inline const char* const kTinyRl = R"(
run: {name: rl, threads: 2}
env: {type: reasoning, suite: {type: chained_arithmetic, tiers: [2]}}
trainer: {preset: grpo, steps: 1, prompts: 2, group_size: 2, sampling: {max_tokens: 12}}
eval: {episodes: 4, max_tokens: 12, greedy: false}
)";

class LanguageTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_language_tools()) GTEST_SKIP() << "built without LibTorch";
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string file(const std::string& name, const std::string& contents) const {
    std::ofstream(path(name), std::ios::binary) << contents;
    return path(name);
  }
  static nlohmann::json read_json(const std::string& name) { return nlohmann::json::parse(read_file(name)); }

  // Trains into path(name) and returns that folder.
  std::string train(const std::string& name, const std::string& yaml, std::vector<std::string> changes = {}) {
    const Answer answer = try_train(name, yaml, std::move(changes));
    EXPECT_EQ(answer.code, 0) << answer.err;
    return path(name);
  }
  Answer try_train(const std::string& name, const std::string& yaml, std::vector<std::string> changes = {}) {
    std::vector<std::string> words = {"train", file(name + ".yaml", yaml), "--out", path(name)};
    words.insert(words.end(), changes.begin(), changes.end());
    return command(words);
  }
  // The tiny run's model as a folder of its own, to be damaged.
  std::string model_copy(const std::string& name) {
    if (!std::filesystem::exists(path("tiny"))) train("tiny", kTinyRun);
    std::filesystem::copy(path("tiny/model"), path(name));
    return path(name);
  }

  TemporaryFolder folder_;
};

// Every word is in the message.
inline void expect_says(const Answer& answer, int code, const std::vector<std::string>& words) {
  EXPECT_EQ(answer.code, code) << answer.err;
  for (const std::string& word : words)
    EXPECT_NE(answer.err.find(word), std::string::npos) << answer.err << "\nlacks: " << word;
}

}  // namespace trimtab
