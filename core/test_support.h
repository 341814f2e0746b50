// What tests of several units share: a folder that goes away, and the seed of property tests.
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"

namespace trimtab {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "trimtab-test-XXXXXX").string();
    TT_CHECK(mkdtemp(name.data()) != nullptr, "cannot make a folder {}", name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Stands for a full disk in this process from now on: a file that would grow beyond `bytes` fails to (EFBIG).
inline void limit_file_size(uint64_t bytes) {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, RLIM_INFINITY};
  TT_CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

// Property tests draw their cases from this seed, so that they can be run on new cases: TRIMTAB_TEST_SEED=7
// ctest ...
inline uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

}  // namespace trimtab
