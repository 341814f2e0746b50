// The libraries as they are shipped: small, and in need of nothing but libc and libm. Their figures come from
// binutils' `size` and `readelf`.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <sstream>
#include <string>

namespace {

constexpr int64_t kMaxBytes = 200'000;

// What a command prints; the empty string when it fails.
std::string output_of(const std::string& command) {
  std::string out;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return "";
  char piece[4096];
  while (const size_t n = fread(piece, 1, sizeof piece, pipe)) out.append(piece, n);
  return pclose(pipe) == 0 ? out : "";
}

// Text and data of a library, all members of an archive together; -1 when `size` says nothing that can be
// read.
int64_t loaded_bytes(const std::string& library) {
  std::istringstream lines(output_of("'" TRIMTAB_SIZE "' --format=berkeley '" + library + "'"));
  std::string line;
  std::getline(lines, line);  // text data bss dec hex filename
  int64_t total = 0, members = 0;
  for (int64_t text = 0, data = 0; std::getline(lines, line); total += text + data, ++members) {
    if (!(std::istringstream(line) >> text >> data)) return -1;
  }
  return members > 0 ? total : -1;
}

class Library : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(TRIMTAB_SANITIZE) != "")
      GTEST_SKIP() << "a sanitizer's code and libraries are not what is shipped";
  }
};

TEST_F(Library, IsSmall) {
  if (std::string(TRIMTAB_SIZE).ends_with("-NOTFOUND")) GTEST_SKIP() << "no `size` (binutils)";
  for (const char* library : {TRIMTAB_STATIC, TRIMTAB_SHARED}) {
    const int64_t bytes = loaded_bytes(library);
    EXPECT_GT(bytes, 10'000) << library << ": not measured";
    EXPECT_LE(bytes, kMaxBytes) << library;
  }
}

TEST_F(Library, NeedsLibcAndLibmOnly) {
  if (std::string(TRIMTAB_READELF).ends_with("-NOTFOUND")) GTEST_SKIP() << "no `readelf` (binutils)";
  std::istringstream lines(output_of("LC_ALL=C '" TRIMTAB_READELF "' --dynamic --wide '" TRIMTAB_SHARED "'"));
  int needed = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("(NEEDED)") == std::string::npos) continue;
    const size_t open = line.find('['), close = line.find(']');
    ASSERT_NE(close, std::string::npos) << line;
    const std::string name = line.substr(open + 1, close - open - 1);
    EXPECT_TRUE(name.starts_with("libc.") || name.starts_with("libm.")) << name;
    ++needed;
  }
  EXPECT_GE(needed, 1) << "nothing read";
}

}  // namespace
