// Ctrl-C, SIGTERM, and SIGUSR1, which mpirun passes on without killing the ranks afterwards: only async-signal-safe calls in the
// handler (POSIX.1-2017, 2.4.3).
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <string_view>

#include "core/error.h"
#include "core/run_folder.h"

namespace trimtab {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "the handler needs a lock-free flag");

void handle(int) {
  if (flag.exchange(true)) _exit(static_cast<int>(ExitCode::kInterrupted));
  constexpr std::string_view kNote =
      "\nstopping at the next safe point; the run can be resumed (again to stop at once)\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kNote.data(), kNote.size());
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) TT_CHECK_EQ(sigaction(signal, &action, nullptr), 0);
}

bool interrupted() { return flag.load(std::memory_order_relaxed); }

}  // namespace trimtab
