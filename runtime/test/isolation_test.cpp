// What the library can reach: the symbols it imports are a short list of harmless ones, and opening an artefact opens that file and
// nothing else (seen by strace): no network, no other program, no library, no environment.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "trimtab/runtime.h"

namespace {

std::string output_of(const std::string& command) {
  std::string out;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return "";
  char piece[4096];
  while (const size_t n = fread(piece, 1, sizeof piece, pipe)) out.append(piece, n);
  return pclose(pipe) == 0 ? out : "";
}

// Everything the library may ask of libc and libm; a new entry is a decision.
const std::set<std::string> kAllowed = {
    // memory and bytes
    "aligned_alloc", "calloc", "free", "memchr", "memcmp", "memcpy", "memmove", "memset", "strchr", "strcmp", "strlen",
    // messages
    "snprintf", "vsnprintf", "__snprintf_chk", "__vsnprintf_chk", "__memcpy_chk", "__stack_chk_fail",
    // the one file, and the clock of a watched deadline
    "open", "open64", "fstat", "fstat64", "close", "mmap", "mmap64", "munmap", "clock_gettime",
    // numbers
    "ceil", "ceilf", "exp", "expf", "fabsf", "floor", "floorf", "fmax", "fmaxf", "fmin", "fminf", "log", "log1pf", "logf", "lrintf", "pow", "powf", "round", "roundf",
    "sqrt", "sqrtf", "tanhf",
    // the compiler's and the loader's own
    "_GLOBAL_OFFSET_TABLE_", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize", "__gmon_start__", "__cpu_model",
    "__cpu_indicator_init", "__cpu_features2"};

// Names `nm` calls undefined, versions cut off; of an archive those that no other member defines.
std::set<std::string> imports(const std::string& library, const std::string& options) {
  std::istringstream lines(output_of("LC_ALL=C '" TRIMTAB_NM "' " + options + " '" + library + "' 2>/dev/null"));
  std::set<std::string> undefined, defined;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::vector<std::string> parts;
    for (std::string word; words >> word;) parts.push_back(word);
    if (parts.size() < 2) continue;
    const std::string name = parts.back().substr(0, parts.back().find('@')), kind = parts[parts.size() - 2];
    (kind == "U" || kind == "w" || kind == "v" ? undefined : defined).insert(name);
  }
  for (const std::string& name : defined) undefined.erase(name);
  return undefined;
}

TEST(Isolation, ImportsHarmlessSymbolsAlone) {
  if (std::string(TRIMTAB_SANITIZE) != "") GTEST_SKIP() << "a sanitizer's code is not what is shipped";
  if (std::string(TRIMTAB_NM).ends_with("-NOTFOUND")) GTEST_SKIP() << "no `nm` (binutils)";
  for (const auto& [library, options] : {std::pair(TRIMTAB_SHARED, "-D"), std::pair(TRIMTAB_STATIC, "")}) {
    const std::set<std::string> names = imports(library, options);
    EXPECT_TRUE(names.contains("aligned_alloc")) << library << ": nothing read";
    for (const std::string& name : names) EXPECT_TRUE(kAllowed.contains(name)) << library << " imports " << name;
  }
}

const char* artefact() { return TRIMTAB_ARTEFACT; }

// Runs under strace in the test below. access() of these names marks where the library begins and ends.
constexpr const char *kBegin = "/trimtab-isolation-begin", *kEnd = "/trimtab-isolation-end";
TEST(Isolation, DISABLED_OpensAndDecides) {
  tt_controller* controller = nullptr;
  char why[256] = "";
  (void)!access(kBegin, F_OK);
  const tt_status status = tt_open(artefact(), nullptr, &controller, why, sizeof why);
  tt_agent_info info{};
  info.struct_size = sizeof info;
  if (status == TT_OK && tt_get_agent_info(controller, 0, &info) == TT_OK) {
    static float context[4096], items[65536], action[4096];
    tt_decide(controller, 0, context, items, nullptr, info.max_items, action);
  }
  tt_close(controller);
  (void)!access(kEnd, F_OK);
  ASSERT_EQ(status, TT_OK) << why;
}

TEST(Isolation, OpeningAnArtefactTouchesThatFileAlone) {
  if (std::string(TRIMTAB_SANITIZE) != "") GTEST_SKIP() << "a sanitizer makes system calls of its own";
  if (!std::ifstream(artefact())) GTEST_SKIP() << "no " << artefact();
  if (output_of("command -v strace").empty()) GTEST_SKIP() << "no strace (apt-get install strace)";
  if (output_of("strace -e trace=none true 2>/dev/null && echo traced").empty()) GTEST_SKIP() << "strace may not trace here (ptrace is forbidden)";
  char self[4096] = "";
  ASSERT_GT(readlink("/proc/self/exe", self, sizeof self - 1), 0);
  const std::string trace = output_of("strace -f -s 4096 '" + std::string(self) + "' --gtest_also_run_disabled_tests --gtest_filter=Isolation.DISABLED_OpensAndDecides 2>&1");
  const size_t begin = trace.find(kBegin), end = trace.find(kEnd);
  ASSERT_TRUE(begin != std::string::npos && end != std::string::npos && begin < end) << trace;
  const std::set<std::string> allowed = {"openat", "open", "fstat", "newfstatat", "mmap", "munmap", "close", "brk", "access", "mprotect"};
  std::istringstream lines(trace.substr(begin, end - begin));
  std::string line;
  std::getline(lines, line);  // what is left of the mark's own
  int opened = 0;
  while (std::getline(lines, line)) {
    const size_t bracket = line.find('(');
    if (bracket == std::string::npos) continue;
    const std::string call = line.substr(line.find_last_of(" \t", bracket) + 1, bracket - line.find_last_of(" \t", bracket) - 1);
    EXPECT_TRUE(allowed.contains(call)) << line;
    if (!call.starts_with("open")) continue;
    EXPECT_NE(line.find(artefact()), std::string::npos) << line;
    EXPECT_NE(line.find("O_RDONLY"), std::string::npos) << line;
    ++opened;
  }
  EXPECT_EQ(opened, 1) << trace.substr(begin, end - begin);
}

}  // namespace
