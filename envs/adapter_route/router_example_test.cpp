// examples/adapter_router: the router in Python prints what it printed, and says what is wrong with its input.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "core/files.h"
#include "core/test_support.h"
#include "envs/adapter_route/router_python.h"

namespace trimtab {
namespace {

const std::filesystem::path kFolder = router_folder();

class RouterExample : public testing::Test {
 protected:
  void SetUp() override {
    if (!python_is_here()) GTEST_SKIP() << "no python3 here";
  }
  std::string routed(const std::filesystem::path& residents, const std::filesystem::path& requests, const std::string& options = "") {
    Printed out = run_router_script(residents, requests, options);
    status = out.status;
    return std::move(out.text);
  }
  std::filesystem::path file(const std::string& text, const std::string& name = "file") {
    write_file_atomically(folder.path() / name, text);
    return folder.path() / name;
  }
  TemporaryFolder folder;
  int status = 0;
};

TEST_F(RouterExample, PrintsTheCallsOfItsRequests) {
  EXPECT_EQ(routed(kFolder / "residents.json", kFolder / "requests.jsonl"), read_file(kFolder / "expected.txt"));
  EXPECT_EQ(status, 0);
}

TEST_F(RouterExample, LoadsOnlyWhatPaysAndLearnsFromAnswers) {
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "{\"task\": \"words\", \"adapter\": \"sorts_words\", \"quality\": 0}\n";
  for (int i = 0; i < 200; ++i) lines += "{\"task\": \"words\", \"adapter\": \"words\", \"quality\": 1}\n";
  const std::string request = "{\"prompt\": \"p\", \"task\": \"words\"}\n";
  EXPECT_EQ(routed(kFolder / "residents.json", file(request)).find("unload_lora"), std::string::npos);   // a resident answers nearly as well
  const std::string after = routed(kFolder / "residents.json", file(lines + request));
  EXPECT_NE(after.find("\"/v1/unload_lora_adapter\""), std::string::npos) << after;
  EXPECT_NE(after.find("\"model\": \"words\""), std::string::npos) << after;
}

// The server begins with no adapter, and finds them where the user says.
TEST_F(RouterExample, LoadsTheFirstResidentsBeforeAnyRequest) {
  std::string expected;
  for (const char* name : {"chains", "expressions", "sorts_words", "adds"})
    expected += fmt::format(R"({{"url": "/v1/load_lora_adapter", "body": {{"lora_name": "{0}", "lora_path": "/models/{0}/adapter"}}}})" "\n", name);
  EXPECT_EQ(routed(kFolder / "residents.json", file(""), "--lora-path '/models/{name}/adapter'"), expected);
  EXPECT_EQ(status, 0);
  EXPECT_NE(routed(kFolder / "residents.json", file(""), "--lora-path /models").find("write {name} where the adapter's name stands"), std::string::npos);
  EXPECT_NE(status, 0);
}

// Plans are made after eight requests: by then all adapters there are have room.
TEST_F(RouterExample, TakesMoreSlotsThanAdapters) {
  nlohmann::json residents = nlohmann::json::parse(read_file(kFolder / "residents.json"));
  residents["slots"] = 20;
  const std::string said = routed(file(residents.dump(), "roomy.json"), kFolder / "requests.jsonl");
  EXPECT_EQ(status, 0) << said;
  EXPECT_EQ(said.find("unload_lora"), std::string::npos) << said;
}

TEST_F(RouterExample, SaysWhatIsWrong) {
  for (const auto& [text, why] : {std::pair{"{\"prompt\": \"p\"}\n", "'embedding' must be 32 numbers"}, {"{\"prompt\": \"p\", \"task\": \"nobody\"}\n", "unknown task 'nobody'"},
                                  {"[1]\n", "line 1: not a request"}, {"nonsense\n", "line 1"}, {"{\"task\": \"add\", \"adapter\": \"nobody\", \"quality\": 1}\n", "unknown adapter"},
                                  {"{\"task\": \"add\", \"adapter\": \"add\", \"quality\": 7}\n", "[0, 1]"}}) {
    const std::string said = routed(kFolder / "residents.json", file(text));
    EXPECT_NE(status, 0) << text;
    EXPECT_NE(said.find(why), std::string::npos) << said;
    EXPECT_EQ(said.find("Traceback"), std::string::npos) << said;
  }
  EXPECT_NE(routed(file("{}"), kFolder / "requests.jsonl").find("not a file of `trimtab fit residents`"), std::string::npos);
  EXPECT_NE(routed(kFolder / "nothing.json", kFolder / "requests.jsonl").find("No such file"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
