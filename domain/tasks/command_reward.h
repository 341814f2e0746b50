// Rewards from a user's own program: `reward: {command: [python3, score.py]}`.
//
// The program is started once and speaks JSON lines. Each batch writes one request per line to its standard
// input,
//
//   {"answer": "72", "completion": "... #### 72", "id": "jsonl:0123456789abcdef", "prompt": "Natalia ..."}
//
// and expects one response per request, in order, on its standard output, which the program must flush:
//
//   {"reward": 1.0}                       other keys are ignored, but an "id" must be that of the request
//
// Its standard error is ours. It runs in a process group of its own, so that Ctrl-C is handled by the run;
// end of input asks it to end. No shell is involved: the words of `command` are the program (looked up in
// PATH) and its arguments.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"

namespace trimtab {

struct CommandRewardOptions {
  std::vector<std::string> command;
  double timeout_s = 60;
  double grace_s = 2;
  void describe(Fields& f);
  void validate() const;
};

struct RewardRequest {
  std::string prompt, completion, answer, id;  // bytes that are not UTF-8 are sent as U+FFFD
};

class CommandReward {
 public:
  explicit CommandReward(CommandRewardOptions options);  // ConfigError when the program cannot be started
  ~CommandReward();  // end of input, then SIGTERM, then SIGKILL to the group, `grace_s` apart; the child is
                     // waited for
  CommandReward(const CommandReward&) = delete;
  CommandReward& operator=(const CommandReward&) = delete;

  // One reward per request, in order. RunError naming the item when the program ends, is silent for longer
  // than `timeout_s` over the batch, or answers with something else than one finite reward per request;
  // Interrupted on Ctrl-C. The program is stopped by an error and the object cannot be used again. Not
  // thread-safe.
  std::vector<double> score(const std::vector<RewardRequest>& requests);

  pid_t process() const { return process_; }  // -1 after an error

 private:
  struct Batch;
  using Clock = std::chrono::steady_clock;
  void start();
  void exchange(Batch& batch);
  void write_some(Batch& batch);
  void read_some(Batch& batch);
  void take_lines(Batch& batch);
  double reward_of(const std::string& line, const RewardRequest& request) const;
  void refuse_unasked_output();
  [[noreturn]] void fail_ended(const Batch& batch);
  [[noreturn]] void fail(const std::string& message);
  bool ended_within(double seconds);
  int stop();  // returns the child's wait status
  std::string name() const;

  CommandRewardOptions options_;
  pid_t process_ = -1;
  int to_child_ = -1, from_child_ = -1;
  std::string received_;  // an unfinished line
};

}  // namespace trimtab
