// What a run ran on, for provenance.json and benchmark results. No paths and no host name: results are
// published.
#include <sched.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <cmath>
#include <fstream>
#include <string>

#include "core/run_folder.h"

namespace trimtab {
namespace {

#ifdef __clang__
constexpr const char* kCompiler = __VERSION__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos && colon + 2 <= line.size())
      return line.substr(colon + 2);
  }
  utsname system{};
  return uname(&system) == 0 ? system.machine : "unknown";
}

int usable_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : get_nprocs();
}

double memory_gib() {
  struct sysinfo info {};
  if (sysinfo(&info) != 0) return 0;
  return std::round(static_cast<double>(info.totalram) * info.mem_unit / 0x1p30 * 10) / 10;
}

std::string first_line(const std::string& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

bool is_commit(const std::string& text) {
  return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// The commit of the source folder this was built in, "" when that is gone or no git checkout.
std::string git_commit() {
  const std::string git = TRIMTAB_SOURCE_DIR "/.git/";
  std::string head = first_line(git + "HEAD");
  if (is_commit(head)) return head;
  if (!head.starts_with("ref: ")) return "";
  const std::string reference = head.substr(5);
  if (std::string loose = first_line(git + reference); is_commit(loose)) return loose;
  std::ifstream packed(git + "packed-refs");
  for (std::string line; std::getline(packed, line);) {
    if (line.ends_with(" " + reference) && is_commit(line.substr(0, 40))) return line.substr(0, 40);
  }
  return "";
}

}  // namespace

nlohmann::json hardware_and_version() {
  nlohmann::json out = {{"version", TRIMTAB_VERSION},
                        {"compiler", kCompiler},
                        {"cpu", cpu_model()},
                        {"cores", usable_cores()},
                        {"memory_gib", memory_gib()}};
  utsname system{};
  out["host_os"] = uname(&system) == 0 ? std::string(system.sysname) + " " + system.release : "unknown";
  if (const std::string commit = git_commit(); !commit.empty()) out["git_commit"] = commit;
  return out;
}

}  // namespace trimtab
