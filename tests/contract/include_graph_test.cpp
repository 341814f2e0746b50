// The house rules that a compiler does not check: which way dependencies point, where LibTorch may appear,
// that one name means one type. Reads the sources themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace trimtab {
namespace {

namespace fs = std::filesystem;

// Lowest floor first: a folder may include itself and what stands before it. runtime/ may be included by all.
const std::vector<std::string> kFloors = {"core",   "kernels", "policies", "engine",
                                          "domain", "envs",    "trainers", "app"};

struct Include {
  std::string file, target;  // relative to the root; the target as written
  bool angled = false;
};

bool is_source(const fs::path& file) {
  const std::string extension = file.extension().string();
  return extension == ".cpp" || extension == ".h" || extension == ".c" || extension == ".cu" ||
         extension == ".cuh";
}

std::vector<fs::path> sources_under(const std::string& folder) {
  std::vector<fs::path> out;
  const fs::path root = fs::path(TRIMTAB_SOURCE_DIR) / folder;
  if (!fs::is_directory(root)) return out;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.is_regular_file() && is_source(entry.path())) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string from_root(const fs::path& file) { return fs::relative(file, TRIMTAB_SOURCE_DIR).string(); }

std::vector<Include> includes_under(const std::string& folder) {
  static const std::regex pattern("^\\s*#\\s*include\\s*([<\"])([^>\"]+)[>\"]");
  std::vector<Include> out;
  for (const fs::path& file : sources_under(folder)) {
    std::ifstream in(file);
    std::smatch match;
    for (std::string line; std::getline(in, line);) {
      if (std::regex_search(line, match, pattern))
        out.push_back({from_root(file), match[2], match[1] == "<"});
    }
  }
  return out;
}

std::string first_part(const std::string& path, size_t parts = 1) {
  size_t end = 0;
  for (size_t i = 0; i < parts && end != std::string::npos; ++i) end = path.find('/', i == 0 ? 0 : end + 1);
  return path.substr(0, end);
}

int floor_of(const std::string& path) {
  const auto it = std::find(kFloors.begin(), kFloors.end(), first_part(path));
  return it == kFloors.end() ? -1 : static_cast<int>(it - kFloors.begin());
}

TEST(IncludeGraph, TheWalkFindsTheSources) {
  EXPECT_GT(includes_under("core").size(), 20u);
  EXPECT_GT(includes_under("envs").size(), 20u);
}

TEST(IncludeGraph, NoFloorIncludesAHigherOne) {
  for (const std::string& floor : kFloors) {
    for (const Include& include : includes_under(floor)) {
      const int target = floor_of(include.target);
      EXPECT_LE(target, floor_of(include.file)) << include.file << " includes " << include.target;
    }
  }
}

TEST(IncludeGraph, AnEnvironmentNeverIncludesAnother) {
  for (const Include& include : includes_under("envs")) {
    if (first_part(include.target) != "envs" || include.target.find('/', 5) == std::string::npos) continue;
    EXPECT_EQ(first_part(include.target, 2), first_part(include.file, 2))
        << include.file << " includes " << include.target;
  }
}

TEST(IncludeGraph, RadioNeedsCoreAlone) {
  for (const Include& include : includes_under("domain/radio")) {
    const std::string floor = first_part(include.target);
    if (include.angled || floor_of(include.target) < 0) continue;
    EXPECT_TRUE(floor == "core" || include.target.starts_with("domain/radio/"))
        << include.file << " includes " << include.target;
  }
}

TEST(IncludeGraph, TheRuntimeStandsAlone) {
  for (const Include& include : includes_under("runtime")) {
    if (include.file.starts_with("runtime/test/")) continue;
    EXPECT_LT(floor_of(include.target), 0) << include.file << " includes " << include.target;
  }
}

TEST(IncludeGraph, LibTorchStartsAtThePolicies) {
  for (const char* folder : {"core", "kernels", "domain/radio", "runtime"}) {
    for (const Include& include : includes_under(folder)) {
      const std::string top = first_part(include.target);
      EXPECT_FALSE(top == "torch" || top == "ATen" || top == "c10")
          << include.file << " includes " << include.target;
    }
  }
}

// Two headers that define one name differently link without a word and misbehave at run time.
TEST(OneDefinition, NoTypeNameIsDefinedInTwoHeaders) {
  static const std::regex type(
      "^(?:struct|class|enum class|enum)\\s+([A-Za-z_]\\w*)\\s*(?:final\\s*)?(?::[^:;][^;]*)?\\{");
  static const std::regex space("^namespace\\s+([\\w:]+)\\s*\\{");
  std::map<std::string, std::set<std::string>> places;
  for (const std::string& floor : kFloors) {
    for (const fs::path& file : sources_under(floor)) {
      if (file.extension() != ".h") continue;
      std::ifstream in(file);
      std::string name_space;
      std::smatch match;
      for (std::string line; std::getline(in, line);) {
        if (std::regex_search(line, match, space)) name_space = match[1];
        if (std::regex_search(line, match, type))
          places[name_space + "::" + match[1].str()].insert(from_root(file));
      }
    }
  }
  EXPECT_GT(places.size(), 30u);
  for (const auto& [name, files] : places) {
    std::string list;
    for (const std::string& file : files) list += " " + file;
    EXPECT_EQ(files.size(), 1u) << name << " is defined in" << list << ": rename one of them";
  }
}

}  // namespace
}  // namespace trimtab
