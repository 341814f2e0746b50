// `trimtab fit residents`: what it writes is what the router in Python reads, and what it refuses.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "app/command.h"
#include "core/error.h"
#include "core/files.h"
#include "core/recording.h"
#include "core/test_support.h"
#include "envs/adapter_route/router_python.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class FitResidents : public testing::Test {
 protected:
  // Adapter `coder` is right on code, `poet` on poems, `both` nearly as often on either; the base model half the time.
  FitResidents() {
    Recording out;
    out.environment = "adapter_route";
    out.facts = {{"producer", "a test"}, {"adapters", "coder poet both"}, {"ranks", "8 8 16"}};
    out.episodes = {{0, 2, {{"task", "code"}}}, {2, 2, {{"task", "poems"}}}};
    out.columns["embedding"].values = Tensor::f32({4, 2}, std::vector<float>{3, 0, 1, 0.2f, 0, 1, 0.1f, 2});
    out.columns["quality"].values = Tensor::f32({4, 4}, std::vector<float>{1, 0, 0.9f, 0.5f, 1, 0.2f, 0.8f, 0.5f, 0, 1, 0.9f, 0.5f, 0.2f, 1, 0.8f, 0.5f});
    write_recording(table_, out);
  }
  // What it says; the residents lie in residents_ then.
  std::string fit(const std::string& slots, const std::string& price = "0.1", int code = 0) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const std::vector<std::string> words = {"fit", "residents", "--data", table_.string(), "--validation", table_.string(), "--slots", slots, "--price", price, "--out", residents_.string()};
    EXPECT_EQ(run_command(words), code);
    std::fflush(stdout);
    const std::string said = testing::internal::GetCapturedStdout();
    return said + testing::internal::GetCapturedStderr();
  }
  std::string routed(const std::string& requests) const {
    write_file_atomically(folder_.path() / "requests.jsonl", requests);
    const Printed out = run_router_script(residents_, folder_.path() / "requests.jsonl");
    EXPECT_EQ(out.status, 0) << out.text;
    return out.text;
  }
  static std::string load(const std::string& name) {
    return fmt::format(R"({{"url": "/v1/load_lora_adapter", "body": {{"lora_name": "{0}", "lora_path": "adapters/{0}"}}}})" "\n", name);
  }
  static std::string unload(const std::string& name) { return fmt::format(R"({{"url": "/v1/unload_lora_adapter", "body": {{"lora_name": "{}"}}}})" "\n", name); }
  static std::string ask(const std::string& model) { return fmt::format(R"({{"url": "/v1/completions", "body": {{"model": "{}", "prompt": "p"}}}})" "\n", model); }

  TemporaryFolder folder_;
  const fs::path table_ = folder_.path() / "table.safetensors", residents_ = folder_.path() / "residents.json";
};

const std::string kCode = R"({"prompt": "p", "embedding": [5, 0.5]})" "\n", kPoem = R"({"prompt": "p", "task": "poems"})" "\n";

TEST_F(FitResidents, WritesWhatTheRouterReads) {
  if (!python_is_here()) GTEST_SKIP() << "no python3 here";
  EXPECT_NE(fit("1", "0.4").find("Written: "), std::string::npos);
  EXPECT_EQ(routed(kCode + kPoem), load("both") + ask("both") + ask("both"));
  fit("2");   // room for the two that are right
  EXPECT_EQ(routed(kCode + kPoem), load("coder") + load("poet") + ask("coder") + ask("poet"));
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += R"({"task": "poems", "adapter": "poet", "quality": 0})" "\n";
  const std::string after = routed(lines + kPoem + kPoem);
  EXPECT_EQ(after, load("coder") + load("poet") + unload("poet") + load("both") + ask("both") + ask("both"));
}

TEST_F(FitResidents, WritesTheMeansOfItsTables) {
  fit("1", "0.4");
  const json out = json::parse(read_file(residents_));
  EXPECT_EQ(out["adapters"], (json{"coder", "poet", "both"}));
  EXPECT_EQ(out["residents"], json{"both"});
  ASSERT_EQ(out["tasks"].size(), 2u);
  EXPECT_EQ(out["tasks"][0]["name"], "code");
  EXPECT_EQ(out["tasks"][0]["prompts"], 2);
  for (const auto& [a, mean] : {std::pair{0, 1.0}, {1, 0.1}, {2, 0.85}, {3, 0.5}}) EXPECT_NEAR(out["tasks"][0]["quality"][a], mean, 1e-6);
}

TEST_F(FitResidents, WritesNoMoreSlotsThanAdapters) {
  EXPECT_NE(fit("9").find("--slots 9: all 3 adapters of the tables fit, so 3 is written"), std::string::npos);
  EXPECT_EQ(json::parse(read_file(residents_))["slots"], 3);
  EXPECT_EQ(fit("3").find("--slots"), std::string::npos);
  if (!python_is_here()) GTEST_SKIP() << "no python3 here";
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += kCode + kPoem;   // beyond the first plans
  EXPECT_EQ(routed(lines).find("unload"), std::string::npos);
}

TEST_F(FitResidents, RefusesNoRoom) {
  EXPECT_NE(fit("0", "0.1", 2).find("--slots 0: give the number of adapters that can be resident, 1 or more"), std::string::npos);
  EXPECT_FALSE(fs::exists(residents_));
}

}  // namespace
}  // namespace trimtab
