// scripts/new_unit makes units that compile as they are: each kind is generated into a scratch folder and
// given to the compiler.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace trimtab {
namespace {

namespace fs = std::filesystem;

int run(const std::string& command) { return std::system((command + " >/dev/null").c_str()); }

class NewUnit : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("trimtab_new_unit_" + std::to_string(::getpid()) + GetParam());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string script() const { return std::string(TRIMTAB_SOURCE_DIR) + "/scripts/new_unit "; }
  fs::path folder_;
};

TEST_P(NewUnit, CompilesAsMade) {
  if (run("command -v c++") != 0) GTEST_SKIP() << "there is no c++ on the path";
  ASSERT_EQ(run(script() + GetParam() + " tiny_thing --into " + folder_.string()), 0);
  int compiled = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (entry.path().extension() != ".cpp") continue;
    EXPECT_EQ(run("c++ -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I" + folder_.string() +
                  " -I" TRIMTAB_SOURCE_DIR " " + entry.path().string()),
              0)
        << entry.path();
    ++compiled;
  }
  EXPECT_GE(compiled, 2);
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path());
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    EXPECT_EQ(text.find("@name@"), std::string::npos) << entry.path();
    EXPECT_EQ(text.find("@Name@"), std::string::npos) << entry.path();
  }
}

TEST_P(NewUnit, RefusesToOverwriteAndWrongNames) {
  ASSERT_EQ(run(script() + GetParam() + " tiny_thing --into " + folder_.string()), 0);
  EXPECT_NE(run(script() + GetParam() + " tiny_thing --into " + folder_.string() + " 2>/dev/null"), 0);
  EXPECT_NE(run(script() + GetParam() + " TinyThing --into " + folder_.string() + " 2>/dev/null"), 0);
}

INSTANTIATE_TEST_SUITE_P(EveryKind, NewUnit, testing::Values("env", "policy", "trainer", "kernel"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace trimtab
