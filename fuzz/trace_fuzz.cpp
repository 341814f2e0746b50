// domain/radio: an HDF5 trace of unknown origin. The HDF5 library itself may crash on it, hang or ask for any memory: in the child
// process that reads it first, never here. What a sanitizer finds there in our own code is a finding all the same: the child ends with a
// code of its own.
#include <unistd.h>

#include <string>
#include <string_view>

#include "core/error.h"
#include "domain/radio/trace.h"
#include "domain/radio/trace_untrusted.h"
#include "fuzz/target.h"

namespace {

constexpr int kSanitizer = 99, kOther = 1;   // exit codes

// The nearest frame that is known decides; HDF5 is not instrumented, but what it asks of memcpy or free is watched.
bool is_of_hdf5(std::string_view report) { return report.find("libhdf5") < report.find("trimtab::"); }

void on_report(const char* report) {
  if (is_of_hdf5(report)) _exit(kOther);
}

}  // namespace

// What the sanitizers look for in a program; builds without them never call these. UndefinedBehaviorSanitizer sees our code alone.
extern "C" const char* __asan_default_options() { return "exitcode=99"; }
extern "C" const char* __ubsan_default_options() { return "exitcode=99"; }
extern "C" void __asan_set_error_report_callback(void (*)(const char*)) __attribute__((weak));

namespace trimtab::fuzz {
namespace {

void run_trace(Bytes input) {
  if (__asan_set_error_report_callback) __asan_set_error_report_callback(on_report);
  const std::string file = write_input("trace.h5", input);
  try {
    radio::parse_in_child(file, {}, {.memory_bytes = uint64_t{512} << 20, .cpu_seconds = 1, .wall_seconds = 20});
  } catch (const DataError& error) {
    const std::string message = error.what();
    FUZZ_CHECK(message.find(file) != std::string::npos);
    FUZZ_CHECK(message.find(" with exit code " + std::to_string(kSanitizer) + ";") == std::string::npos);
  }
}

}  // namespace

extern const Target trace;
const Target trace{"trace", run_trace};

}  // namespace trimtab::fuzz
