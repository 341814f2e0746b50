#include "core/run_folder.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/files.h"
#include "core/tensorboard.h"
#include "core/test_support.h"
#include "core/text.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

RunFolder open_run(const fs::path& out, const std::string& config, bool fresh = false, bool exact = false) {
  return RunFolder::open(out, "job", config, {{"version", "test"}}, fresh, exact);
}

TEST(RunFolder, MakesAFolderWithConfigAndProvenance) {
  const TemporaryFolder folder;
  const RunFolder run = open_run(folder.path() / "runs", "a: 1\n");
  EXPECT_FALSE(run.resumed);
  EXPECT_FALSE(run.finished());
  EXPECT_EQ(run.path.parent_path(), folder.path() / "runs");
  EXPECT_TRUE(run.path.filename().string().starts_with("job-20"));
  EXPECT_EQ(read_file(run.path / "config.yaml"), "a: 1\n");
  EXPECT_EQ(nlohmann::json::parse(read_file(run.path / "provenance.json"))["version"], "test");
}

TEST(RunFolder, ResumesTheNewestUnfinishedRunOfTheSameConfig) {
  const TemporaryFolder folder;
  const RunFolder first = open_run(folder.path(), "a: 1\n");
  const RunFolder again = open_run(folder.path(), "a: 1\n");
  EXPECT_TRUE(again.resumed);
  EXPECT_EQ(again.path, first.path);
  const RunFolder other = open_run(folder.path(), "a: 2\n");
  EXPECT_FALSE(other.resumed);
  EXPECT_NE(other.path, first.path);
  const RunFolder fresh = open_run(folder.path(), "a: 1\n", /*fresh=*/true);
  EXPECT_FALSE(fresh.resumed);
  EXPECT_NE(fresh.path, first.path);
  EXPECT_EQ(open_run(folder.path(), "a: 1\n").path, fresh.path) << "not the newest";
  fresh.mark_finished();
  EXPECT_TRUE(fresh.finished());
  EXPECT_EQ(open_run(folder.path(), "a: 1\n").path, first.path) << "a finished run was resumed";
  first.mark_finished();
  EXPECT_FALSE(open_run(folder.path(), "a: 1\n").resumed);
}

TEST(RunFolder, RecordsEveryResume) {
  const TemporaryFolder folder;
  const auto provenance = [](const RunFolder& run) {
    return nlohmann::json::parse(read_file(run.path / "provenance.json"));
  };
  const RunFolder run = open_run(folder.path(), "a: 1\n");
  EXPECT_FALSE(provenance(run).contains("resumes"));
  open_run(folder.path(), "a: 1\n").record_resume(200, {{"version", "later"}});
  open_run(folder.path(), "a: 1\n").record_resume(300, {{"version", "still later"}});
  const nlohmann::json after = provenance(run);
  EXPECT_EQ(after["version"], "test") << "what began the run is forgotten";
  ASSERT_EQ(after["resumes"].size(), 2u);
  EXPECT_EQ(after["resumes"][0]["step"], 200);
  EXPECT_EQ(after["resumes"][0]["version"], "later");
  EXPECT_EQ(after["resumes"][1]["step"], 300);
  const std::string time = after["resumes"][1]["time"];
  EXPECT_TRUE(time.size() == 20 && time.starts_with("20") && time.ends_with("Z")) << time;

  for (const char* damaged : {"", "[]", "{\"resumes\": 1}"}) {
    std::ofstream(run.path / "provenance.json") << damaged;
    EXPECT_THROW(run.record_resume(1, {}), DataError) << damaged;
    EXPECT_EQ(read_file(run.path / "provenance.json"), damaged);
  }
}

TEST(RunFolder, OrdersByTimeThenNumber) {
  const TemporaryFolder folder;
  for (const char* name : {"job-20260101-120000", "job-20260101-120000-2", "job-20260101-120000-10",
                           "job-20251231-235959", "job-x-20270101-000000", "job-20270101-00000x"}) {
    fs::create_directory(folder.path() / name);
    std::ofstream(folder.path() / name / "config.yaml") << "a: 1\n";
  }
  EXPECT_EQ(open_run(folder.path(), "a: 1\n").path.filename(), "job-20260101-120000-10");
}

TEST(RunFolder, AFolderWithoutConfigWasNeverARun) {
  const TemporaryFolder folder;
  fs::create_directory(folder.path() / "job-20990101-120000");
  EXPECT_FALSE(open_run(folder.path(), "a: 1\n").resumed);
}

TEST(RunFolder, ExactUsesTheFolderItselfAndMovesAnOlderRunAside) {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "quickstart";
  const RunFolder first = open_run(out, "a: 1\n", false, true);
  EXPECT_EQ(first.path, out);
  EXPECT_FALSE(first.resumed);
  EXPECT_TRUE(open_run(out, "a: 1\n", false, true).resumed);
  EXPECT_TRUE(open_run(out / "", "a: 1\n", false, true).resumed) << "a trailing slash made another folder";
  std::ofstream(out / "note") << "mine";
  first.mark_finished();
  testing::internal::CaptureStderr();
  EXPECT_FALSE(open_run(out, "a: 1\n", false, true).resumed);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("held another run; it is now"), std::string::npos);
  EXPECT_FALSE(fs::exists(out / "note"));
  size_t kept = 0;
  for (const auto& entry : fs::directory_iterator(folder.path()))
    kept += fs::exists(entry.path() / "note") ? 1 : 0;
  EXPECT_EQ(kept, 1u) << "the older run is gone";
}

TEST(RunFolder, RefusesWhatIsNotARun) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "thesis.tex") << "x";
  EXPECT_THROW(open_run(folder.path(), "a: 1\n", false, true), ConfigError);
  EXPECT_THROW(open_run(folder.path() / "thesis.tex", "a: 1\n"), ConfigError);
  EXPECT_TRUE(fs::exists(folder.path() / "thesis.tex"));
  for (const char* name : {"", "a/b", "..", "a\nb"}) {
    EXPECT_THROW(RunFolder::open(folder.path(), name, "", {}, false, false), ConfigError) << name;
  }
}

TEST(HardwareAndVersion, SaysWhatRanWithoutPaths) {
  const nlohmann::json facts = hardware_and_version();
  EXPECT_EQ(facts["version"], TRIMTAB_VERSION);
  EXPECT_GE(facts["cores"].get<int>(), 1);
  EXPECT_GT(facts["memory_gib"].get<double>(), 0);
  for (const char* key : {"cpu", "compiler", "host_os"})
    EXPECT_FALSE(facts[key].get<std::string>().empty()) << key;
  EXPECT_EQ(facts.dump().find(TRIMTAB_SOURCE_DIR), std::string::npos);
}

std::vector<nlohmann::json> lines_of(const fs::path& folder) {
  std::vector<nlohmann::json> out;
  for (const std::string& line : split(read_file(folder / "metrics.jsonl"), '\n')) {
    if (!line.empty()) out.push_back(nlohmann::json::parse(line));
  }
  return out;
}

std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) out.push_back(entry.path());
  }
  return out;
}

TEST(Metrics, WritesOneObjectPerLine) {
  const TemporaryFolder folder;
  Metrics metrics(folder.path(), 0);
  metrics.log(1, {{"loss", 0.5}, {"reward/jain", 0.1}});
  metrics.log(2, {{"loss", std::nan("")}, {"gain", std::numeric_limits<double>::infinity()}});
  metrics.flush();
  const auto lines = lines_of(folder.path());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["step"], 1);
  EXPECT_EQ(lines[0]["reward/jain"].get<double>(), 0.1);
  EXPECT_GT(lines[0]["time"].get<double>(), 1.7e9);
  EXPECT_TRUE(lines[1]["loss"].is_null());
  EXPECT_TRUE(lines[1]["gain"].is_null());
  EXPECT_TRUE(read_file(folder.path() / "metrics.jsonl").starts_with("{\"step\":1,\"time\":"));
}

TEST(Metrics, ResumingDropsWhatCameAfterTheCheckpoint) {
  const TemporaryFolder folder;
  {
    Metrics metrics(folder.path(), 0);
    for (int step = 1; step <= 5; ++step) metrics.log(step, {{"loss", step * 0.1}});
  }
  std::ofstream(folder.path() / "metrics.jsonl", std::ios::app)
      << "{\"step\":3,\"ti";  // killed in the middle of a line
  {
    Metrics metrics(folder.path(), 3);
    metrics.log(4, {{"loss", 9}});
  }
  const auto lines = lines_of(folder.path());
  ASSERT_EQ(lines.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(lines[i]["step"], i + 1);
  EXPECT_EQ(lines[3]["loss"], 9);
  EXPECT_EQ(event_files(folder.path()).size(), 1u);
}

// Few enough to be read, every evaluation among them, evenly over the steps; resumed anywhere, the same ones.
TEST(Metrics, ALongRunsFileStaysBounded) {
  constexpr int64_t kMost = 40, kSteps = 1000;
  const auto log = [](Metrics& metrics, int64_t from, int64_t to) {
    for (int64_t step = from; step <= to; ++step) {
      if (step % 100 == 0) metrics.log(step, {{"loss", 1.0 / static_cast<double>(step)}, {"eval/return", static_cast<double>(step)}});
      else metrics.log(step, {{"loss", 1.0 / static_cast<double>(step)}});
    }
  };
  const auto what_is_there = [](const std::filesystem::path& folder) {
    std::vector<nlohmann::json> out = lines_of(folder);
    for (nlohmann::json& line : out) line.erase("time");
    return out;
  };
  const TemporaryFolder whole;
  {
    Metrics metrics(whole.path(), 0, kMost);
    log(metrics, 1, kSteps);
  }
  const auto lines = what_is_there(whole.path());
  EXPECT_LE(std::ssize(lines), kMost + 10);
  EXPECT_GE(std::ssize(lines), kMost / 4 + 10);
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(), [](const auto& l) { return l.contains("eval/return"); }), 10);
  EXPECT_EQ(lines[0]["step"], 1);
  int64_t last = 0;
  for (const auto& line : lines) {
    EXPECT_LE(line["step"].get<int64_t>() - last, 4 * kSteps / kMost) << "no hole";
    last = line["step"];
  }
  EXPECT_EQ(event_files(whole.path()).size(), 1u);
  for (const int64_t stop : {30, 70, 100, 333, 990})
    for (const int64_t beyond : {0, 9, 400}) {   // logged after the last checkpoint, and again by the resumed run
      const TemporaryFolder folder;
      {
        Metrics metrics(folder.path(), 0, kMost);
        log(metrics, 1, std::min(kSteps, stop + beyond));
      }
      {
        Metrics metrics(folder.path(), stop, kMost);
        log(metrics, stop + 1, kSteps);
      }
      EXPECT_EQ(what_is_there(folder.path()), lines) << stop << " + " << beyond;
    }
}

// A limit on the file size stands for a full disk: writes fail in the middle of a file in the same way.
TEST(MetricsDeathTest, AFullDiskIsAnErrorThatSaysSo) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto fill = [] {
    const TemporaryFolder folder;
    Metrics metrics(folder.path(), 0);
    limit_file_size(1000);
    try {
      for (int step = 0; step < 1000; ++step) metrics.log(step, {{"loss", 0.1}});
    } catch (const RunError& full) {
      std::fprintf(stderr, "%s\n", full.what());
      std::exit(static_cast<int>(full.code()));
    }
    std::exit(0);
  };
  EXPECT_EXIT(fill(), testing::ExitedWithCode(4),
              "metrics.jsonl: cannot write it: .*; free some space and resume the run");
}

TEST(Tensorboard, CrcMatchesTheStandardsVectors) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
}

TEST(Progress, PrintsItsLastStateIntoALog) {
  testing::internal::CaptureStderr();
  {
    Progress progress("training", 2000000, "slots");
    progress.update(500000);
    progress.update(1000000, "reward 0.5");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(text.starts_with("training  50% 1.00M/2.00M slots  ")) << text;
  EXPECT_TRUE(text.ends_with("reward 0.5\n")) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(Progress, PrintsNothingWhenNothingHappened) {
  testing::internal::CaptureStderr();
  { Progress progress("training", 10, "slots"); }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, DrawsABarOnATerminal) {
  int master = -1, slave = -1;
  winsize size{};
  size.ws_col = 60;
  if (openpty(&master, &slave, nullptr, nullptr, &size) != 0) GTEST_SKIP() << "no pseudo-terminal here";
  const int saved = dup(STDERR_FILENO);
  dup2(slave, STDERR_FILENO);
  {
    Progress progress("training", 100, "slots");
    progress.update(50, std::string(100, 'x'));
  }
  dup2(saved, STDERR_FILENO);
  close(saved);
  std::string drawn;   // a terminal hands over what was written in pieces
  for (pollfd ready{master, POLLIN, 0}; drawn.find('\n') == std::string::npos && poll(&ready, 1, 10000) > 0;) {
    char text[1024];
    const ssize_t length = read(master, text, sizeof(text));
    ASSERT_GT(length, 0);
    drawn.append(text, static_cast<size_t>(length));
  }
  close(slave);
  close(master);
  EXPECT_NE(drawn.find("training  50% [##########          ] 50/100 slots"), std::string::npos) << drawn;
  EXPECT_LE(drawn.find('\n'), 60 + std::string("\r\033[K\r").size()) << "the line is wider than the terminal";
}

TEST(InterruptDeathTest, FirstSetsTheFlagSecondEnds) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto twice = [](int signal) {
    install_interrupt_handler();
    if (interrupted()) _exit(1);
    raise(signal);
    if (!interrupted()) _exit(2);
    raise(signal);
    _exit(3);
  };
  EXPECT_EXIT(twice(SIGINT), testing::ExitedWithCode(130), "can be resumed");
  EXPECT_EXIT(twice(SIGTERM), testing::ExitedWithCode(130), "can be resumed");
}

}  // namespace
}  // namespace trimtab
