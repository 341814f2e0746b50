// What is left on the disk when a run is killed, or its disk fails, at any system call of the save path; and damage to every byte of
// what was saved. A child process meets the fault, its parent looks at what is left.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "core/checkpoint.h"
#include "core/disk.h"
#include "core/error.h"
#include "core/files.h"
#include "core/run_folder.h"
#include "core/test_support.h"
#include "core/text.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using disk::FaultKind;

// In memory where that can be: hundreds of flushes cost nothing there.
std::unique_ptr<TemporaryFolder> folder_in_memory() {
  const char* before = std::getenv("TMPDIR");
  const std::string saved = before == nullptr ? "" : before;
  if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
  auto folder = std::make_unique<TemporaryFolder>();
  before == nullptr ? unsetenv("TMPDIR") : setenv("TMPDIR", saved.c_str(), 1);
  return folder;
}

struct KindName {
  FaultKind kind;
  const char* name;
};
constexpr KindName kKinds[] = {{FaultKind::kKill, "kill"},
                               {FaultKind::kKillAfter, "kill_after"},
                               {FaultKind::kShortWrite, "short_write"},
                               {FaultKind::kNoSpace, "enospc"},
                               {FaultKind::kIoError, "eio"}};

// How a child ended: killed, or with an exit code and what it had to say.
struct Ending {
  bool killed = false;
  int code = 0;
  std::string message;
};

Ending in_child(const std::function<void()>& action) {
  int ends[2];
  TT_CHECK_EQ(pipe(ends), 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  TT_CHECK_GE(child, 0);
  if (child == 0) {
    std::string text;
    int code = 0;
    try {
      action();
    } catch (const Error& error) {
      text = error.what();
      code = static_cast<int>(error.code());
    } catch (const std::exception& error) {
      text = std::string("not one of ours: ") + error.what();
      code = 99;
    }
    _exit(::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? code : 98);
  }
  close(ends[1]);
  Ending out;
  char piece[1024];
  for (ssize_t size; (size = read(ends[0], piece, sizeof(piece))) > 0;) out.message.append(piece, static_cast<size_t>(size));
  close(ends[0]);
  int status = 0;
  TT_CHECK_EQ(waitpid(child, &status, 0), child);
  out.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return out;
}

// Calls `each` with a fresh copy of what `prepare` makes, after `action` met every kind of fault at every one of its calls there.
void at_every_call(const std::function<void(const fs::path&)>& prepare, const std::function<void(const fs::path&)>& action,
                   const std::function<void(const fs::path&, const Ending&)>& each) {
  const auto base = folder_in_memory();
  const fs::path prepared = base->path() / "prepared", used = base->path() / "used";
  const auto renew = [&] {
    fs::remove_all(used);
    fs::copy(prepared, used, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  };
  fs::create_directory(prepared);
  prepare(prepared);
  renew();
  const Ending undisturbed = in_child([&] {
    disk::set_fault(disk::Fault{});
    action(used);
    throw RunError(std::to_string(disk::calls()));
  });
  const int64_t calls = std::stoll(undisturbed.message);
  ASSERT_GT(calls, 3);
  for (int64_t point = 1; point <= calls; ++point) {
    for (const KindName& kind : kKinds) {
      SCOPED_TRACE(fmt::format("{} at call {} of {}", kind.name, point, calls));
      renew();
      const Ending ending = in_child([&] {
        disk::set_fault(disk::Fault{point, kind.kind});
        action(used);
      });
      const bool kill = kind.kind == FaultKind::kKill || kind.kind == FaultKind::kKillAfter;
      EXPECT_EQ(ending.killed, kill) << ending.message;
      if (kind.kind == FaultKind::kShortWrite) {
        EXPECT_EQ(ending.code, 0) << ending.message;
      }
      if (!kill && ending.code != 0) {
        EXPECT_TRUE(ending.code == 4 || ending.code == 2) << ending.code << ": " << ending.message;
        EXPECT_NE(ending.message.find(used.string()), std::string::npos) << ending.message;
        EXPECT_NE(ending.message.find("resume the run"), std::string::npos) << "no cure: " << ending.message;
      }
      each(used, ending);
      if (testing::Test::HasFailure()) return;  // one is enough to read
    }
  }
}

// Every part depends on the step and on `version`, so that a mixture of two checkpoints shows.
Checkpoint sample(int64_t step, int64_t version = 0) {
  Checkpoint out;
  out.step = step;
  out.state.tensors["w"] = Tensor::f32({4}, std::vector<float>(4, static_cast<float>(10 * step + version)));
  out.state.metadata["version"] = std::to_string(version);
  out.counters = {{"updates", step * 2}, {"mean", 0.1 * static_cast<double>(step + version)}};
  out.blobs["episodes"] = std::string(20, static_cast<char>(10 * step + version));
  return out;
}

bool same(const Checkpoint& a, const Checkpoint& b) {
  return a.step == b.step && a.counters == b.counters && a.blobs == b.blobs && a.state.metadata == b.state.metadata &&
         a.state.tensors.size() == b.state.tensors.size() && a.state.at("w").bytes == b.state.at("w").bytes;
}

// {step of the save that is disturbed, keep}; the ones before it are 1 and 2, and 1 is the best.
class DisturbedSave : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(DisturbedSave, LeavesTheOldOrTheNewCheckpointWhole) {
  const auto [step, keep] = GetParam();
  const Checkpoint made = sample(step, 1);
  bool seen_old = false, seen_new = false;
  at_every_call(
      [&](const fs::path& folder) {
        CheckpointFolder checkpoints(folder);
        for (const int64_t before : {1, 2}) checkpoints.save(sample(before), keep);
        if (keep > 1) checkpoints.mark_best(1);
      },
      [&](const fs::path& folder) { CheckpointFolder(folder).save(made, keep); },
      [&](const fs::path& folder, const Ending& ending) {
        CheckpointFolder checkpoints(folder);
        const auto latest = checkpoints.load_latest();
        ASSERT_TRUE(latest.has_value());
        const bool is_old = same(*latest, sample(2)), is_new = same(*latest, made);
        EXPECT_TRUE(is_old || is_new) << "step " << latest->step << " is neither";
        EXPECT_TRUE(is_new || ending.killed || ending.code == 4) << "a save that went well is not there";
        seen_old = seen_old || is_old;
        seen_new = seen_new || is_new;
        if (keep > 1) {
          EXPECT_TRUE(same(checkpoints.load("best"), sample(1)));
        }
        checkpoints.save(sample(4), keep);
        EXPECT_TRUE(same(*checkpoints.load_latest(), sample(4)));
        for (const auto& entry : fs::directory_iterator(folder)) EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
      });
  EXPECT_TRUE(seen_old && seen_new);
}

INSTANTIATE_TEST_SUITE_P(Survival, DisturbedSave,
                         testing::Values(std::pair(3, 1), std::pair(3, 3), std::pair(2, 1), std::pair(2, 3)), [](const auto& info) {
                           return fmt::format("{}Step_Keep{}", info.param.first == 2 ? "Same" : "New", info.param.second);
                         });

TEST(Survival, AFirstSaveIsThereOrNot) {
  at_every_call([](const fs::path&) {}, [](const fs::path& folder) { CheckpointFolder(folder / "checkpoints").save(sample(1), 2); },
                [](const fs::path& folder, const Ending&) {
                  CheckpointFolder checkpoints(folder / "checkpoints");
                  const auto latest = checkpoints.load_latest();
                  EXPECT_TRUE(!latest || same(*latest, sample(1)));
                  checkpoints.save(sample(1), 2);
                  EXPECT_TRUE(same(*checkpoints.load_latest(), sample(1)));
                });
}

TEST(Survival, TheBestIsTheOldOrTheNew) {
  at_every_call(
      [](const fs::path& folder) {
        for (const int64_t step : {1, 2}) CheckpointFolder(folder).save(sample(step), 2);
        CheckpointFolder(folder).mark_best(1);
      },
      [](const fs::path& folder) { CheckpointFolder(folder).mark_best(2); },
      [](const fs::path& folder, const Ending&) {
        CheckpointFolder checkpoints(folder);
        const int64_t step = checkpoints.load("best").step;
        EXPECT_TRUE(step == 1 || step == 2) << step;
        checkpoints.mark_best(2);
        EXPECT_EQ(checkpoints.load("best").step, 2);
      });
}

TEST(Survival, AFileIsTheOldOrTheNew) {
  const std::string old(300, 'o'), fresh(500, 'n');
  at_every_call([&](const fs::path& folder) { write_file_atomically(folder / "x", old); },
                [&](const fs::path& folder) { write_file_atomically(folder / "x", fresh); },
                [&](const fs::path& folder, const Ending& ending) {
                  const std::string text = read_file(folder / "x");
                  EXPECT_TRUE(text == old || text == fresh);
                  if (!ending.killed) {
                    EXPECT_FALSE(fs::exists(folder / "x.tmp"));
                  }
                  write_file_atomically(folder / "x", fresh);
                  EXPECT_EQ(read_file(folder / "x"), fresh);
                });
}

RunFolder open_exact(const fs::path& folder, const std::string& config = "a: 1\n") {
  return RunFolder::open(folder, "job", config, {{"version", "test"}}, /*fresh=*/false, /*exact=*/true);
}

void expect_a_run(const RunFolder& run) {
  EXPECT_EQ(read_file(run.path / "config.yaml"), "a: 1\n");
  EXPECT_EQ(nlohmann::json::parse(read_file(run.path / "provenance.json"))["version"], "test");
}

TEST(Survival, ARunIsMadeWholeOrMadeAgain) {
  for (const bool exact : {true, false}) {
    SCOPED_TRACE(exact);
    const auto open = [exact](const fs::path& folder) {
      return RunFolder::open(folder / "runs", "job", "a: 1\n", {{"version", "test"}}, /*fresh=*/false, exact);
    };
    at_every_call([](const fs::path&) {}, open, [&](const fs::path& folder, const Ending&) {
      expect_a_run(open(folder));
      EXPECT_TRUE(open(folder).resumed);
    });
  }
}

TEST(Survival, AnOlderRunIsNeverLostToANewOne) {
  at_every_call(
      [](const fs::path& folder) {
        const RunFolder older = open_exact(folder / "run", "a: 0\n");
        std::ofstream(older.path / "note") << "mine";
        older.mark_finished();
      },
      [](const fs::path& folder) {
        testing::internal::CaptureStderr();
        open_exact(folder / "run");
      },
      [](const fs::path& folder, const Ending&) {
        testing::internal::CaptureStderr();
        expect_a_run(open_exact(folder / "run"));
        testing::internal::GetCapturedStderr();
        int notes = 0;
        for (const auto& entry : fs::directory_iterator(folder)) notes += fs::exists(entry.path() / "note") ? 1 : 0;
        EXPECT_EQ(notes, 1);
      });
}

TEST(Survival, ResumingAndFinishingARun) {
  at_every_call([](const fs::path& folder) { open_exact(folder / "run"); },
                [](const fs::path& folder) {
                  const RunFolder run = open_exact(folder / "run");
                  run.record_resume(10, {{"version", "later"}});
                  run.mark_finished();
                },
                [](const fs::path& folder, const Ending& ending) {
                  if (fs::exists(folder / "run" / "finished")) return;
                  EXPECT_TRUE(ending.killed || ending.code != 0);
                  const RunFolder run = open_exact(folder / "run");
                  EXPECT_TRUE(run.resumed);
                  expect_a_run(run);
                  run.record_resume(10, {{"version", "later"}});
                  run.mark_finished();
                  EXPECT_TRUE(run.finished());
                });
}

void log_steps(Metrics& metrics, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) metrics.log(step, {{"loss", 0.1 * static_cast<double>(step)}});
  metrics.flush();
}

TEST(Survival, MetricsHaveNoGapAndNoRepeat) {
  at_every_call(
      [](const fs::path& folder) {
        Metrics metrics(folder, 0);
        log_steps(metrics, 0, 5);
      },
      [](const fs::path& folder) {
        Metrics metrics(folder, 3);  // the checkpoint
        log_steps(metrics, 4, 7);
      },
      [](const fs::path& folder, const Ending&) {
        {
          Metrics metrics(folder, 3);
          log_steps(metrics, 4, 8);
        }
        std::vector<int64_t> steps;
        for (const std::string& line : split(read_file(folder / "metrics.jsonl"), '\n'))
          if (!line.empty()) steps.push_back(nlohmann::json::parse(line)["step"]);
        EXPECT_EQ(steps, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
      });
}

// A run that was killed before its first checkpoint logs its start again.
TEST(Survival, MetricsOfARunThatNeverSavedBeginAnew) {
  const TemporaryFolder folder;
  for (int attempt = 0; attempt < 2; ++attempt) {
    Metrics metrics(folder.path(), 0);
    log_steps(metrics, 0, 1);
  }
  EXPECT_EQ(split(read_file(folder.path() / "metrics.jsonl"), '\n').size(), 3u);  // two lines and the end
}

TEST(Survival, EveryCutAndEveryFlippedBitOfACheckpointFallsBack) {
  const auto temporary = folder_in_memory();
  CheckpointFolder folder(temporary->path());
  for (const int64_t step : {1, 2}) folder.save(sample(step), 5);
  for (const auto& entry : fs::directory_iterator(temporary->path() / "step-000002")) {
    const std::string good = read_file(entry.path());
    const auto expect_older = [&](const std::string& bytes, const std::string& what) {
      std::ofstream(entry.path(), std::ios::binary | std::ios::trunc) << bytes;
      testing::internal::CaptureStderr();
      const auto latest = folder.load_latest();
      const std::string said = testing::internal::GetCapturedStderr();
      ASSERT_TRUE(latest && same(*latest, sample(1))) << entry.path() << " " << what;
      ASSERT_NE(said.find("step-000002 cannot be used: "), std::string::npos) << entry.path() << " " << what;
    };
    for (size_t size = 0; size < good.size(); ++size) expect_older(good.substr(0, size), fmt::format("cut to {}", size));
    expect_older(good + "x", "one byte more");
    for (size_t at = 0; at < good.size() * 8; ++at) {
      std::string bytes = good;
      bytes[at / 8] = static_cast<char>(bytes[at / 8] ^ (1 << (at % 8)));
      expect_older(bytes, fmt::format("bit {}", at));
    }
    std::ofstream(entry.path(), std::ios::binary | std::ios::trunc) << good;
  }
  EXPECT_TRUE(same(*folder.load_latest(), sample(2)));
}

TEST(Survival, ACheckpointOfALaterVersionIsNotGivenUp) {
  const TemporaryFolder temporary;
  CheckpointFolder folder(temporary.path());
  for (const int64_t step : {1, 2}) folder.save(sample(step), 5);
  const fs::path file = temporary.path() / "step-000002" / "manifest.json";
  nlohmann::json manifest = nlohmann::json::parse(read_file(file));
  manifest["format"] = 7;
  manifest.erase("xxh3_128");
  manifest["xxh3_128"] = hash_bytes(manifest.dump());
  std::ofstream(file, std::ios::trunc) << manifest.dump() << "\n";
  for (const char* which : {"latest", "2"}) {
    try {
      folder.load(which);
      ADD_FAILURE() << "loaded";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("step-000002: it was written by a newer trimtab (checkpoint format 7, this one reads 1); "
                                               "go on with that version"),
                std::string::npos)
          << error.what();
    }
  }
  EXPECT_TRUE(same(folder.load("1"), sample(1)));
  EXPECT_EQ(folder.steps(), (std::vector<int64_t>{1, 2}));
}

TEST(Survival, ARunOfALiveProcessIsRefused) {
  for (const bool exact : {true, false}) {
    SCOPED_TRACE(exact);
    const TemporaryFolder temporary;
    const auto open = [&](bool fresh) {
      return RunFolder::open(temporary.path() / "runs", "job", "a: 1\n", {{"version", "test"}}, fresh, exact);
    };
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t owner = fork();
    ASSERT_GE(owner, 0);
    if (owner == 0) {
      const RunFolder held = open(false);
      if (::write(ends[1], "x", 1) != 1) _exit(1);
      for (;;) pause();
    }
    char ready = 0;
    ASSERT_EQ(read(ends[0], &ready, 1), 1);
    for (const bool fresh : {false, true}) {
      if (fresh && !exact) {
        EXPECT_FALSE(open(true).resumed) << "another folder is free";
        continue;
      }
      try {
        open(fresh);
        ADD_FAILURE() << "two processes share a run";
      } catch (const RunError& error) {
        const std::string text = error.what();
        for (const std::string& part : {temporary.path().string() + "/runs", fmt::format("pid {}", owner),
                                        std::string(exact ? "wait for its end, or name another folder with --out"
                                                          : "wait for its end, or start another run with --new")})
          EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
      }
    }
    kill(owner, SIGKILL);
    ASSERT_EQ(waitpid(owner, nullptr, 0), owner);
    close(ends[0]);
    close(ends[1]);
    EXPECT_TRUE(open(false).resumed) << "the lock outlives its owner";
  }
}

// Runs `action` in a child on a file system of its own of 64 KiB, which goes with it.
Ending on_small_disk(const std::function<void(const fs::path&)>& action) {
  const TemporaryFolder folder;
  return in_child([&] {
    const bool mounted = unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=64k") == 0;
    if (!mounted) throw Interrupted("this user cannot mount");
    action(folder.path());
  });
}
constexpr int kCannotMount = static_cast<int>(ExitCode::kInterrupted);

TEST(Survival, AFullDiskLosesNothing) {
  const Ending ending = on_small_disk([](const fs::path& folder) {
    const RunFolder run = open_exact(folder / "run");
    CheckpointFolder checkpoints(run.path / "checkpoints");
    checkpoints.save(sample(1), 1);
    Metrics metrics(run.path, 0);
    Checkpoint large = sample(2);
    large.blobs["episodes"] = std::string(100000, 'x');
    try {
      checkpoints.save(large, 1);
    } catch (const CheckpointError& error) {
      const std::string text = error.what();
      TT_CHECK(text.find("No space left on device; free some space and resume the run") != std::string::npos, "{}", text);
      TT_CHECK(same(*checkpoints.load_latest(), sample(1)));
      metrics.log(1, {{"loss", 1}});  // what the large one had taken is free again
      checkpoints.save(sample(2), 1);
      TT_CHECK(same(*checkpoints.load_latest(), sample(2)));
      throw;
    }
  });
  if (ending.code == kCannotMount) GTEST_SKIP() << ending.message;
  EXPECT_EQ(ending.code, 4) << ending.message;
}

TEST(Survival, AReadOnlyDiskIsAnErrorThatSaysSo) {
  for (const bool save : {true, false}) {
    const Ending ending = on_small_disk([&](const fs::path& folder) {
      {
        const RunFolder run = open_exact(folder / "run");
        CheckpointFolder(run.path / "checkpoints").save(sample(1), 1);
      }
      TT_CHECK_EQ(mount(nullptr, folder.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
      TT_CHECK(same(*CheckpointFolder(folder / "run/checkpoints").load_latest(), sample(1)));
      if (save) CheckpointFolder(folder / "run/checkpoints").save(sample(2), 1);
      open_exact(folder / "run");
    });
    if (ending.code == kCannotMount) GTEST_SKIP() << ending.message;
    EXPECT_EQ(ending.code, 4) << ending.message;
    EXPECT_NE(ending.message.find("Read-only file system; make it writable and resume the run"), std::string::npos) << ending.message;
  }
}

TEST(Survival, AFaultThatCannotBeReadIsAnError) {
  for (const char* text : {"", "3", "3:", "0:kill", "x:kill", "3:burn"}) {
    const Ending ending = in_child([&] { disk::set_fault(text); });
    EXPECT_EQ(ending.code, 2) << text;
    EXPECT_NE(ending.message.find("expected"), std::string::npos) << ending.message;
  }
  EXPECT_TRUE(in_child([] {
                disk::set_fault("1:kill");
                CheckpointFolder("/nowhere").save(sample(1), 1);
              }).killed);
}

}  // namespace
}  // namespace trimtab
