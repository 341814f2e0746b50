// A sandbox of modest means (no privilege needed): fork, resource limits, a pipe for the verdict.
#include "domain/radio/trace_untrusted.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "core/error.h"
#include "domain/radio/trace_hdf5.h"

namespace trimtab::radio {
namespace {

#if defined(__has_feature)
#define TRIMTAB_HAS_FEATURE(name) __has_feature(name)
#else
#define TRIMTAB_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || TRIMTAB_HAS_FEATURE(address_sanitizer) || \
    TRIMTAB_HAS_FEATURE(thread_sanitizer)
constexpr bool kLimitMemory = false;  // the shadow memory alone takes terabytes of addresses
#else
constexpr bool kLimitMemory = true;
#endif

rlim_t address_space_bytes() {
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  statm >> pages;
  return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

void lower_limit(int resource, rlim_t value) {
  rlimit limit{};
  getrlimit(static_cast<__rlimit_resource>(resource), &limit);
  limit.rlim_cur = std::min(value, limit.rlim_max);
  setrlimit(static_cast<__rlimit_resource>(resource), &limit);
}

void write_all(int pipe, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(pipe, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

// The child's whole life; its exit code is 0 when the file is good.
[[noreturn]] void child(int pipe, const std::filesystem::path& file, TraceOptions options,
                        const ChildLimits& limits) {
  // The parent's handlers (a fuzzer's, a program's own) would report a crash as theirs.
  for (const int sign : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU, SIGALRM}) signal(sign, SIG_DFL);
  hdf5::renew_lock_in_child();
  if (kLimitMemory) lower_limit(RLIMIT_AS, address_space_bytes() + limits.memory_bytes);
  lower_limit(RLIMIT_CPU, limits.cpu_seconds);
  lower_limit(RLIMIT_CORE, 0);
  lower_limit(RLIMIT_FSIZE, 0);
  alarm(limits.wall_seconds);
  options.untrusted = false;
  try {
    inspect_trace(file, options);
    _exit(0);
  } catch (const std::bad_alloc&) {
    write_all(
        pipe,
        fmt::format(
            "{}: reading this file takes more than {} GiB of memory; it is damaged or not meant for this "
            "machine",
            file.string(), static_cast<double>(limits.memory_bytes) / (uint64_t{1} << 30)));
  } catch (const std::exception& error) {
    write_all(pipe, error.what());
  }
  _exit(1);
}

std::string read_all(int pipe) {
  std::string text;
  std::array<char, 4096> part{};
  for (;;) {
    const ssize_t n = read(pipe, part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(part.data(), static_cast<size_t>(n));
  }
}

}  // namespace

void parse_in_child(const std::filesystem::path& file, const TraceOptions& options, const ChildLimits& limits) {
  options.validate();
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0)
    throw RunError(fmt::format("no pipe for checking {}: {}", file.string(), std::strerror(errno)));
  pid_t process = -1;
  {
    const std::lock_guard guard(hdf5::lock());  // so that the child inherits a library at rest
    process = fork();
    if (process == 0) {
      close(ends[0]);
      child(ends[1], file, options, limits);
    }
  }
  close(ends[1]);
  if (process < 0) {
    close(ends[0]);
    throw RunError(fmt::format("no process for checking {}: {}", file.string(), std::strerror(errno)));
  }
  const std::string message = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  if (!message.empty()) throw DataError(message);
  throw DataError(fmt::format(
      "{}: reading this file ended a process of its own with {} {}; the file is damaged or malicious, "
      "do not use it",
      file.string(), WIFSIGNALED(status) ? "signal" : "exit code",
      WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
}

}  // namespace trimtab::radio
