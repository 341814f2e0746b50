#include "domain/tasks/command_reward.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/run_folder.h"
#include "core/text.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxLine = 1 << 20;  // bytes of a response without an end of line
constexpr int kPollMs = 100;          // how soon Ctrl-C is noticed

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
      throw RunError(fmt::format("cannot make a pipe for the reward command: {}", std::strerror(errno)));
    read = ends[0];
    write = ends[1];
  }
  ~Pipe() {
    close_end(read);
    close_end(write);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  static void close_end(int& end) {
    if (end >= 0) close(end);
    end = -1;
  }
  static int release(int& end) { return std::exchange(end, -1); }
};

// A write to a program that has ended raises SIGPIPE. Holds it back in this thread and takes it off again, so
// that the process's own handling of the signal is left as it is.
class SigpipeHeld {
 public:
  SigpipeHeld() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  ~SigpipeHeld() {
    const timespec now{0, 0};
    while (!was_pending_ && sigtimedwait(&set_, nullptr, &now) == -1 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SigpipeHeld(const SigpipeHeld&) = delete;
  SigpipeHeld& operator=(const SigpipeHeld&) = delete;

 private:
  sigset_t set_{}, before_{};
  bool was_pending_ = false;
};

// In the child between fork and exec: only calls that are safe there.
[[noreturn]] void become(char* const* words, int input, int output, int report) {
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) signal(number, SIG_DFL);
  if (dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0) execvp(words[0], words);
  const int cause = errno;
  [[maybe_unused]] const ssize_t ignored = write(report, &cause, sizeof cause);
  _exit(127);
}

std::string shortened(const std::string& line) {
  constexpr size_t kShown = 120;
  std::string out = Json(line.substr(0, kShown)).dump(-1, ' ', true, Json::error_handler_t::replace);
  return line.size() > kShown ? out + fmt::format(" and {} more bytes", line.size() - kShown) : out;
}

std::string ending(int status) {
  if (WIFEXITED(status)) return fmt::format("ended with exit status {}", WEXITSTATUS(status));
  if (WIFSIGNALED(status))
    return fmt::format("was ended by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("ended with wait status {}", status);
}

std::string item_name(const std::vector<RewardRequest>& requests, size_t item) {
  return fmt::format("item {} of {} (id '{}')", item + 1, requests.size(), requests[item].id);
}

}  // namespace

// One exchange: what is still to be written, and the rewards read so far.
struct CommandReward::Batch {
  const std::vector<RewardRequest>& requests;
  std::string outgoing;
  size_t written = 0;
  std::vector<double> rewards;
  bool input_closed = false;  // the program no longer reads

  explicit Batch(const std::vector<RewardRequest>& all) : requests(all) {
    for (const RewardRequest& r : all) {
      const Json line = {
          {"prompt", r.prompt}, {"completion", r.completion}, {"answer", r.answer}, {"id", r.id}};
      outgoing += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
  }
  bool writing() const { return written < outgoing.size() && !input_closed; }
  bool done() const { return rewards.size() == requests.size(); }
};

void CommandRewardOptions::describe(Fields& f) {
  f.texts("command", command,
          {.doc = "a program and its arguments: reads requests, writes rewards, as JSON lines",
           .required = true});
  f.number("timeout_s", timeout_s,
           {.low = 0.01, .high = 1e6, .unit = "s", .doc = "longest time for one batch"});
  f.number("grace_s", grace_s,
           {.low = 0, .high = 60, .unit = "s", .doc = "time to end before it is made to"});
}

void CommandRewardOptions::validate() const {
  if (command.empty() || command[0].empty())
    throw ConfigError("command needs a program, such as [python3, score.py]");
}

CommandReward::CommandReward(CommandRewardOptions options) : options_(std::move(options)) {
  options_.validate();
  start();
}

CommandReward::~CommandReward() { stop(); }

std::string CommandReward::name() const { return "reward command '" + join(options_.command, " ") + "'"; }

void CommandReward::start() {
  std::vector<char*> words;
  for (std::string& word : options_.command) words.push_back(word.data());
  words.push_back(nullptr);
  Pipe input, output, report;
  const pid_t child = fork();
  if (child < 0) throw RunError(fmt::format("cannot start the {}: {}", name(), std::strerror(errno)));
  if (child == 0) become(words.data(), input.read, output.write, report.write);
  setpgid(child, child);  // also here, so that the group is there whoever comes first
  process_ = child;
  Pipe::close_end(report.write);
  int cause = 0;
  ssize_t got;
  do got = read(report.read, &cause, sizeof cause);
  while (got < 0 && errno == EINTR);
  to_child_ = Pipe::release(input.write);
  from_child_ = Pipe::release(output.read);
  if (got == sizeof cause) {
    stop();
    throw ConfigError(
        fmt::format("the {} cannot be started: {}; check reward.command (no shell is used: write one "
                    "word per element)",
                    name(), std::strerror(cause)));
  }
  for (const int end : {to_child_, from_child_}) fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK);
}

std::vector<double> CommandReward::score(const std::vector<RewardRequest>& requests) {
  if (process_ < 0) throw RunError(fmt::format("the {} was stopped by an earlier error", name()));
  if (requests.empty()) return {};
  const SigpipeHeld held;
  refuse_unasked_output();
  Batch batch(requests);
  exchange(batch);
  refuse_unasked_output();
  return batch.rewards;
}

void CommandReward::exchange(Batch& batch) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(options_.timeout_s);
  while (!batch.done()) {
    if (interrupted()) {
      stop();
      throw Interrupted("interrupted while waiting for the " + name());
    }
    const double left_ms = std::chrono::duration<double, std::milli>(deadline - Clock::now()).count();
    if (left_ms <= 0)
      fail(fmt::format(
          "gave {} of {} rewards in {} s, waiting for {}; raise reward.timeout_s, score faster, or flush "
          "its output after every line",
          batch.rewards.size(), batch.requests.size(), options_.timeout_s,
          item_name(batch.requests, batch.rewards.size())));
    pollfd ends[2] = {{from_child_, POLLIN, 0}, {to_child_, POLLOUT, 0}};
    const int timeout_ms = static_cast<int>(std::ceil(std::min(left_ms, double{kPollMs})));
    if (poll(ends, batch.writing() ? 2 : 1, timeout_ms) <= 0) continue;
    if (ends[1].revents != 0) write_some(batch);
    if (ends[0].revents != 0) read_some(batch);
  }
}

void CommandReward::write_some(Batch& batch) {
  const ssize_t n =
      write(to_child_, batch.outgoing.data() + batch.written, batch.outgoing.size() - batch.written);
  if (n >= 0) batch.written += static_cast<size_t>(n);
  if (n < 0 && errno == EPIPE) batch.input_closed = true;  // what it still says, or its end, is read next
}

void CommandReward::read_some(Batch& batch) {
  char buffer[1 << 16];
  const ssize_t n = read(from_child_, buffer, sizeof buffer);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) fail_ended(batch);
  received_.append(buffer, static_cast<size_t>(n));
  take_lines(batch);
  if (received_.size() > kMaxLine)
    fail(fmt::format("sent over {} bytes without an end of line for {}", kMaxLine,
                     batch.done() ? "no item" : item_name(batch.requests, batch.rewards.size())));
}

void CommandReward::take_lines(Batch& batch) {
  size_t at = 0;
  for (size_t end; !batch.done() && (end = received_.find('\n', at)) != std::string::npos; at = end + 1) {
    const size_t item = batch.rewards.size();
    const std::string line = received_.substr(at, end - at);
    try {
      batch.rewards.push_back(reward_of(line, batch.requests[item]));
    } catch (const RunError& error) {
      fail(fmt::format("answered {} for {}: {}", shortened(line), item_name(batch.requests, item),
                       error.what()));
    }
  }
  received_.erase(0, at);
}

double CommandReward::reward_of(const std::string& line, const RewardRequest& request) const {
  const Json response = Json::parse(line, nullptr, false);
  if (!response.is_object())
    throw RunError("expected one line {\"reward\": x}; print nothing else to standard output");
  const auto reward = response.find("reward");
  if (reward == response.end() || !reward->is_number())
    throw RunError(
        "expected \"reward\" to be a number (JSON has no NaN: decide what a failed score is worth)");
  const double value = reward->get<double>();
  if (!std::isfinite(value)) throw RunError("the reward is not finite");
  if (const auto id = response.find("id"); id != response.end() && *id != request.id)
    throw RunError("the \"id\" is another item's; answer in the order of the requests");
  return value;
}

// Output between batches belongs to no request: more lines than requests, or stray prints.
void CommandReward::refuse_unasked_output() {
  pollfd end = {from_child_, POLLIN, 0};
  if (received_.empty() && poll(&end, 1, 0) == 1 && (end.revents & POLLIN) != 0) {
    char buffer[4096];
    const ssize_t n = read(from_child_, buffer, sizeof buffer);
    if (n > 0) received_.assign(buffer, static_cast<size_t>(n));
  }
  if (received_.empty()) return;
  const std::string line = received_.substr(0, received_.find('\n'));
  fail(fmt::format("sent {} that no item asked for; answer each request with exactly one line",
                   shortened(line)));
}

void CommandReward::fail_ended(const Batch& batch) {
  const std::string who = name(), rest = received_.empty() ? "" : "; unfinished line " + shortened(received_);
  const bool by_itself = ended_within(options_.grace_s);
  const int status = stop();
  throw RunError(fmt::format("the {} {} after {} of {} rewards; {} has none{}", who,
                             by_itself ? ending(status) : "closed its output", batch.rewards.size(),
                             batch.requests.size(), item_name(batch.requests, batch.rewards.size()), rest));
}

void CommandReward::fail(const std::string& message) {
  const std::string who = name();
  stop();
  throw RunError(fmt::format("the {} {}", who, message));
}

// True once the child has ended; it stays a zombie, which keeps its group's number from being used again.
bool CommandReward::ended_within(double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  for (;;) {
    siginfo_t info{};
    if (waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid != 0)
      return true;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

int CommandReward::stop() {
  if (to_child_ >= 0) close(std::exchange(to_child_, -1));
  if (from_child_ >= 0) close(std::exchange(from_child_, -1));
  if (process_ < 0) return 0;
  if (!ended_within(options_.grace_s)) {
    kill(-process_, SIGTERM);
    ended_within(options_.grace_s);
  }
  kill(-process_, SIGKILL);  // what is left of the group: the program, or helpers it started
  int status = 0;
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
  return status;
}

}  // namespace trimtab
