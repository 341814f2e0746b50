// examples/adapter_router: the router in Python prints what it printed, and says what is wrong with its input.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/files.h"
#include "core/test_command.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

const std::filesystem::path kFolder = TRIMTAB_SOURCE_DIR "/examples/adapter_router";

class RouterExample : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no python3 here";
  }
  // What it prints, errors included.
  std::string routed(const std::filesystem::path& residents, const std::filesystem::path& requests) {
    const std::string command = fmt::format("PYTHONDONTWRITEBYTECODE=1 python3 '{}' '{}' < '{}' 2>&1", (kFolder / "router.py").string(), residents.string(), requests.string());
    Printed out = run_command(command);
    status = out.status;
    return std::move(out.text);
  }
  std::filesystem::path file(const std::string& text) {
    write_file_atomically(folder.path() / "file", text);
    return folder.path() / "file";
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
  EXPECT_EQ(routed(kFolder / "residents.json", file(request)).find("load_lora"), std::string::npos);   // a resident answers nearly as well
  const std::string after = routed(kFolder / "residents.json", file(lines + request));
  EXPECT_NE(after.find("\"/v1/unload_lora_adapter\""), std::string::npos) << after;
  EXPECT_NE(after.find("\"model\": \"words\""), std::string::npos) << after;
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
