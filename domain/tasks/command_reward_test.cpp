#include "domain/tasks/command_reward.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>

#include "core/config.h"
#include "core/error.h"
#include "core/run_folder.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

std::vector<RewardRequest> requests(size_t n) {
  std::vector<RewardRequest> out;
  for (size_t i = 0; i < n; ++i) out.push_back({"p" + std::to_string(i), "c", "a", "id" + std::to_string(i)});
  return out;
}

CommandRewardOptions shell(const std::string& script, double timeout_s = 20) {
  return {.command = {"/bin/sh", "-c", script}, .timeout_s = timeout_s, .grace_s = 0.2};
}

// What `score` of n requests says went wrong.
std::string message_of(const CommandRewardOptions& options, size_t n = 3) {
  try {
    CommandReward reward(options);
    reward.score(requests(n));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_says(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
}

bool is_running(pid_t process) { return kill(process, 0) == 0; }
bool has_children() { return waitpid(-1, nullptr, WNOHANG) != -1; }

constexpr const char* kOne = "while read -r line; do echo '{\"reward\": 1}'; done";

TEST(CommandReward, ScoresBatchAfterBatchInOneProcess) {
  CommandReward reward(
      shell("n=0; while read -r line; do n=$((n+1)); echo \"{\\\"reward\\\": $n.5}\"; done"));
  const pid_t process = reward.process();
  EXPECT_EQ(reward.score(requests(2)), (std::vector<double>{1.5, 2.5}));
  EXPECT_EQ(reward.score({}), std::vector<double>{});
  EXPECT_EQ(reward.score(requests(3)), (std::vector<double>{3.5, 4.5, 5.5}));
  EXPECT_EQ(reward.process(), process);
}

TEST(CommandReward, SendsEveryFieldAndAnyBytes) {
  TemporaryFolder folder;
  const std::string log = (folder.path() / "log").string();
  CommandReward reward(shell("while read -r line; do printf '%s\\n' \"$line\" >>" + log +
                             "; echo '{\"reward\": -2e-1, \"id\": \"x\", \"why\": []}'; done"));
  EXPECT_EQ(reward.score({{"two\nlines \"", "\xff\xe2", "\\boxed{1}", "x"}}), std::vector<double>{-0.2});
  std::string line;
  std::ifstream in(log);
  std::getline(in, line);
  EXPECT_EQ(line,
            "{\"answer\":\"\\\\boxed{1}\",\"completion\":\"\xef\xbf\xbd\xef\xbf\xbd\",\"id\":\"x\","
            "\"prompt\":\"two\\nlines \\\"\"}");
}

// Both pipes fill up: the program writes while we are still writing, and the other way round.
TEST(CommandReward, LargeBatchesDoNotDeadlock) {
  std::vector<RewardRequest> batch = requests(2000);
  for (RewardRequest& r : batch) r.completion = std::string(2000, 'x');
  const std::string padded = "{\"pad\": \"" + std::string(300, '.') + "\", \"reward\": 1}";
  CommandReward eager(shell("while read -r line; do echo '" + padded + "'; done"));
  EXPECT_EQ(eager.score(batch), std::vector<double>(2000, 1.0));
}

TEST(CommandReward, AProgramThatCannotStartIsAConfigError) {
  EXPECT_THROW(CommandReward({.command = {"/no/such/program"}}), ConfigError);
  EXPECT_THROW(CommandReward({.command = {"/"}}), ConfigError);
  EXPECT_THROW(CommandReward({.command = {}}), ConfigError);
  expect_says(message_of({.command = {"no-such-program", "x"}}),
              {"'no-such-program x'", "No such file", "no shell"});
  EXPECT_FALSE(has_children());
}

TEST(CommandReward, AnEndNamesTheItem) {
  expect_says(message_of(shell("read -r line; echo '{\"reward\": 1}'; exit 3")),
              {"exit status 3 after 1 of 3", "item 2 of 3 (id 'id1')"});
  expect_says(message_of(shell("read -r line; kill -SEGV $$")), {"signal 11", "after 0 of 3", "id 'id0'"});
  expect_says(message_of(shell("exit 0"), 20000), {"exit status 0", "item 1 of 20000"});  // SIGPIPE
  expect_says(message_of(shell("read -r line; printf '{\"rew'")), {"unfinished line", "rew"});
  expect_says(message_of(shell("exec >&-; sleep 30")), {"closed its output", "item 1"});
  EXPECT_FALSE(has_children());
}

TEST(CommandReward, AWrongAnswerNamesTheItem) {
  const auto answers = [](const std::string& second) {
    return message_of(
        shell("read -r a; echo '{\"reward\": 1}'; read -r b; echo '" + second + "'; cat >/dev/null"));
  };
  expect_says(answers("0.5"), {"item 2 of 3 (id 'id1')", "expected one line", "0.5"});
  for (const char* line : {"", "hello", "[1]", "{\"reward\": 1", "{\"reward\": NaN}", "{\"reward\": 1e999}"})
    expect_says(answers(line), {"item 2 of 3"});
  for (const char* line : {"{}", "{\"reward\": null}", "{\"reward\": \"1\"}", "{\"reward\": true}"})
    expect_says(answers(line), {"item 2 of 3", "to be a number"});
  expect_says(answers("{\"reward\": 1, \"id\": \"id7\"}"), {"item 2 of 3", "another item's"});
  EXPECT_FALSE(has_children());
}

TEST(CommandReward, TooManyLinesAreRefused) {
  CommandReward reward(shell("while read -r line; do echo '{\"reward\": 1}'; echo 'debug'; done"));
  try {
    reward.score(requests(1));
    usleep(200000);
    reward.score(requests(1));
    FAIL();
  } catch (const RunError& error) {
    expect_says(error.what(), {"\"debug\"", "no item asked for"});
  }
  EXPECT_EQ(reward.process(), -1);
  EXPECT_FALSE(has_children());
}

TEST(CommandReward, AnEndlessLineIsRefused) {
  expect_says(message_of(shell("read -r a; tr '\\0' x </dev/zero")), {"without an end of line", "item 1 of 3"});
  EXPECT_FALSE(has_children());
}

TEST(CommandReward, SilenceTimesOutAndLeavesNothingBehind) {
  TemporaryFolder folder;
  const std::string helper = (folder.path() / "helper").string();
  const auto start = std::chrono::steady_clock::now();
  // Deaf to SIGTERM, with a helper of its own.
  expect_says(message_of(shell("trap '' TERM; read -r a; echo '{\"reward\": 1}'; sleep 60 & echo $! >" +
                                   helper + "; while :; do sleep 60; done",
                               0.5)),
              {"1 of 3 rewards in 0.5 s", "item 2 of 3 (id 'id1')", "timeout_s"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_FALSE(has_children());
  pid_t process = 0;
  std::ifstream(helper) >> process;
  ASSERT_GT(process, 0);
  for (int i = 0; i < 100 && is_running(process); ++i) usleep(20000);  // init takes it away
  std::string state = "gone";
  if (std::ifstream status("/proc/" + std::to_string(process) + "/stat"); status) {
    std::string number, name;
    status >> number >> name >> state;
  }
  EXPECT_TRUE(state == "gone" || state == "Z" || state.empty()) << state;
}

TEST(CommandReward, EndsWithTheObject) {
  TemporaryFolder folder;
  const std::string farewell = (folder.path() / "farewell").string();
  {
    CommandRewardOptions options = shell(std::string(kOne) + "; echo bye >" + farewell);
    options.grace_s = 10;
    CommandReward reward(options), other(shell(kOne));  // the second must not keep the first one's input open
    reward.score(requests(2));
    other.score(requests(2));
  }
  EXPECT_TRUE(std::filesystem::exists(farewell));
  EXPECT_FALSE(has_children());
}

TEST(CommandReward, LeavesTheProcesssSignalsAlone) {
  struct sigaction before {
  }, after{};
  sigaction(SIGPIPE, nullptr, &before);
  message_of(shell("exit 0"), 20000);
  sigaction(SIGPIPE, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
  sigset_t pending, blocked;
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_EQ(sigismember(&pending, SIGPIPE), 0);
  EXPECT_EQ(sigismember(&blocked, SIGPIPE), 0);
}

TEST(CommandReward, AfterAnErrorItCannotBeUsed) {
  CommandReward reward(shell("exit 1"));
  EXPECT_THROW(reward.score(requests(1)), RunError);
  EXPECT_THROW(reward.score(requests(1)), RunError);
}

TEST(CommandReward, CtrlCIsNoticedWhileWaiting) {
  const auto interrupt_while_waiting = [] {
    install_interrupt_handler();
    CommandReward reward(shell("kill -INT $PPID; sleep 60"));
    try {
      reward.score(requests(1));
    } catch (const Interrupted&) {
      _exit(reward.process() == -1 && !has_children() ? 7 : 8);
    }
    _exit(9);
  };
  EXPECT_EXIT(interrupt_while_waiting(), testing::ExitedWithCode(7), "");
}

TEST(CommandReward, ReadsItsOptions) {
  CommandRewardOptions options;
  Config::parse("{command: [python3, score.py], timeout_s: 5}", "run.yaml").read(options);
  EXPECT_EQ(options.command, (std::vector<std::string>{"python3", "score.py"}));
  EXPECT_THROW(Config::parse("{timeout_s: 5}", "run.yaml").read(options), ConfigError);
  EXPECT_THROW(Config::parse("{command: []}", "run.yaml").read(options), ConfigError);
}

TEST(CommandReward, APythonProgramComparesAnswers) {
  if (std::system("python3 -c 'import json' >/dev/null 2>&1") != 0) GTEST_SKIP() << "python3 is not there";
  TemporaryFolder folder;
  const std::string script = (folder.path() / "score.py").string();
  std::ofstream(script)
      << "import json, sys\nfor line in sys.stdin:\n    r = json.loads(line)\n"
         "    print(json.dumps({'reward': float(r['answer'] in r['completion']), 'id': r['id']}), "
         "flush=True)\n";
  CommandReward reward({.command = {"python3", script}});
  EXPECT_EQ(reward.score({{"2+2", "it is 4", "4", "a"}, {"2+3", "it is 4", "5", "b"}}),
            (std::vector<double>{1, 0}));
}

}  // namespace
}  // namespace trimtab
