// Inputs as files, in memory where there is /dev/shm.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "fuzz/target.h"

namespace trimtab::fuzz {
namespace {

// The process's own folder; whoever ends without running destructors (libFuzzer does) leaves it to scripts/fuzz.
class Folder {
 public:
  Folder() {
    const char* chosen = std::getenv("TRIMTAB_FUZZ_FOLDER");
    std::string name = std::string(chosen != nullptr ? chosen : std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp") + "/trimtab-fuzz-XXXXXX";
    TT_CHECK(mkdtemp(name.data()) != nullptr, "cannot make a folder {}", name);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path path_;
};

}  // namespace

std::string write_input(const std::string& name, Bytes input) {
  static const Folder folder;
  const std::filesystem::path file = folder.path_ / name;
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
  TT_CHECK(out.flush().good(), "cannot write {}", file.string());
  return file.string();
}

}  // namespace trimtab::fuzz
