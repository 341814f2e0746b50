#include "core/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

// Every part depends on the step, so that a mixture of two checkpoints shows.
Checkpoint sample(int64_t step, size_t size = 100) {
  Checkpoint out;
  out.step = step;
  out.state.tensors["w"] =
      Tensor::f32({static_cast<int64_t>(size)}, std::vector<float>(size, static_cast<float>(step)));
  out.state.metadata["step"] = std::to_string(step);
  out.counters = {{"updates", step * 2}, {"mean", 0.1 * static_cast<double>(step)}};
  out.blobs["episodes"] = std::string(size, static_cast<char>(step));
  return out;
}

void expect_is(const Checkpoint& checkpoint, int64_t step) {
  EXPECT_EQ(checkpoint.step, step);
  const Checkpoint right = sample(step, checkpoint.blobs.at("episodes").size());
  EXPECT_EQ(checkpoint.state.at("w").bytes, right.state.at("w").bytes);
  EXPECT_EQ(checkpoint.state.metadata, right.state.metadata);
  EXPECT_EQ(checkpoint.counters, right.counters);
  EXPECT_EQ(checkpoint.blobs, right.blobs);
}

TEST(Checkpoint, ComesBackAsItWas) {
  const TemporaryFolder temporary;
  CheckpointFolder folder(temporary.path() / "checkpoints");
  EXPECT_FALSE(folder.load_latest().has_value());
  folder.save(sample(200), 2);
  expect_is(*folder.load_latest(), 200);
  expect_is(folder.load("200"), 200);
  EXPECT_EQ(fs::read_symlink(temporary.path() / "checkpoints/latest"), "step-000200");
}

TEST(Checkpoint, KeepsTheNewestAndTheBest) {
  const TemporaryFolder temporary;
  CheckpointFolder folder(temporary.path());
  folder.save(sample(1), 2);
  folder.mark_best(1);
  for (int64_t step = 2; step <= 5; ++step) folder.save(sample(step), 2);
  EXPECT_EQ(folder.steps(), (std::vector<int64_t>{1, 4, 5}));
  expect_is(folder.load("best"), 1);
  expect_is(folder.load("latest"), 5);
  folder.mark_best(5);
  folder.save(sample(6), 1);
  EXPECT_EQ(folder.steps(), (std::vector<int64_t>{5, 6}));
}

// As after a kill between the rename of step 2 and its links: who goes on from it sets them, and leaves what is right alone.
TEST(CheckpointFolderLinks, AreSetByWhoGoesOn) {
  const TemporaryFolder temporary;
  const std::filesystem::path path = temporary.path() / "checkpoints";
  CheckpointFolder folder(path);
  for (const int64_t step : {1, 2}) {
    Checkpoint checkpoint;
    checkpoint.step = step;
    folder.save(checkpoint, 3);
  }
  folder.mark_best(1);
  std::filesystem::remove(path / "latest");
  std::filesystem::create_symlink("step-000001", path / "latest");
  std::filesystem::create_symlink("step-000002", path / "latest.tmp");
  folder.go_on_from(2, false);
  EXPECT_EQ(std::filesystem::read_symlink(path / "latest"), "step-000002");
  EXPECT_EQ(std::filesystem::read_symlink(path / "best"), "step-000001");
  EXPECT_FALSE(std::filesystem::is_symlink(path / "latest.tmp"));
  folder.go_on_from(2, true);
  EXPECT_EQ(std::filesystem::read_symlink(path / "best"), "step-000002");
}

TEST(Checkpoint, SavingAStepAgainReplacesItAndDropsLaterOnes) {
  const TemporaryFolder temporary;
  CheckpointFolder folder(temporary.path());
  for (const int64_t step : {1, 2, 3}) folder.save(sample(step), 5);
  folder.save(sample(2, 50), 5);
  EXPECT_EQ(folder.steps(), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(folder.load_latest()->blobs.at("episodes").size(), 50u);
}

TEST(Checkpoint, WrongRequestsListTheSteps) {
  const TemporaryFolder temporary;
  CheckpointFolder folder(temporary.path());
  EXPECT_THROW(folder.load("latest"), CheckpointError);
  folder.save(sample(10), 2);
  folder.save(sample(20), 2);
  for (const char* which : {"15", "best", "newest", "-1", "20x"}) {
    try {
      folder.load(which);
      FAIL() << which << " was loaded";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("steps there are: 10, 20"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(folder.mark_best(15), CheckpointError);
}

class DamagedFile : public testing::TestWithParam<const char*> {
 protected:
  DamagedFile() : folder_(temporary_.path()) {
    folder_.save(sample(1), 5);
    folder_.save(sample(2), 5);
    file_ = temporary_.path() / "step-000002" / GetParam();
    good_ = read_file(file_);
  }
  void write(const std::string& bytes) { std::ofstream(file_, std::ios::binary | std::ios::trunc) << bytes; }
  Checkpoint load(std::string& message) {
    testing::internal::CaptureStderr();
    Checkpoint out = *folder_.load_latest();
    message = testing::internal::GetCapturedStderr();
    return out;
  }

  TemporaryFolder temporary_;
  CheckpointFolder folder_;
  fs::path file_;
  std::string good_;
};

TEST_P(DamagedFile, TruncationFallsBackAndSaysSo) {
  std::string message;
  for (size_t length = 0; length + 1 < good_.size(); length += 1 + good_.size() / 40) {
    write(good_.substr(0, length));
    expect_is(load(message), 1);
    EXPECT_NE(message.find("step-000002 cannot be used: "), std::string::npos) << message;
    EXPECT_NE(message.find("step-000001 instead"), std::string::npos) << message;
  }
  fs::remove(file_);
  expect_is(load(message), 1);
}

TEST_P(DamagedFile, FlippedBitsNeverGiveWrongState) {
  std::string message;
  for (size_t at = 0; at < good_.size(); at += 1 + good_.size() / 100) {
    std::string bytes = good_;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    write(bytes);
    const Checkpoint loaded = load(message);
    // White space of the manifest may change without changing what it says.
    expect_is(loaded, loaded.step);
    EXPECT_EQ(loaded.step == 1, !message.empty()) << at;
    if (GetParam() != std::string("manifest.json")) {
      EXPECT_EQ(loaded.step, 1) << at;
    }
  }
}

TEST_P(DamagedFile, WhenNothingIsGoodTheUserDecides) {
  write("");
  testing::internal::CaptureStderr();
  EXPECT_THROW(folder_.load("2"), CheckpointError);
  fs::remove_all(temporary_.path() / "step-000001");
  EXPECT_THROW(folder_.load_latest(), CheckpointError);
  testing::internal::GetCapturedStderr();
}

INSTANTIATE_TEST_SUITE_P(Checkpoint, DamagedFile,
                         testing::Values("state.safetensors", "state.json", "manifest.json", "episodes.blob"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(CheckpointDeathTest, AFullDiskKeepsTheOlderOne) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto fill = [] {
    const TemporaryFolder temporary;
    CheckpointFolder folder(temporary.path());
    folder.save(sample(1), 1);
    limit_file_size(20000);
    try {
      folder.save(sample(2, 100000), 1);
    } catch (const CheckpointError& error) {
      std::fprintf(stderr, "%s\n", error.what());
      const bool clean =
          !fs::exists(temporary.path() / "step-000002.tmp") && folder.steps() == std::vector<int64_t>{1};
      std::exit(clean && folder.load_latest()->blobs == sample(1).blobs ? 0 : 1);
    }
    std::exit(2);
  };
  EXPECT_EXIT(fill(), testing::ExitedWithCode(0),
              "cannot write it: File too large; free some space and resume the run");
}

// A child saves without pause and reports each finished save; it is killed at a random moment. Whatever it
// reported last, or something newer, must load.
TEST(Checkpoint, AKillAtAnyMomentLeavesAGoodOne) {
  const TemporaryFolder temporary;
  CheckpointFolder folder(temporary.path());
  Draws draws(test_seed(), Stream::kTest);
  constexpr int kKills = 12;
  constexpr size_t kSize = 20000;
  int64_t reported = 0;
  for (int i = 0; i < kKills; ++i) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int64_t step = reported + 1;; ++step) {
        folder.save(sample(step, kSize), 2);
        if (step % 3 == 0) folder.mark_best(step);
        if (write(ends[1], &step, sizeof(step)) != sizeof(step)) _exit(1);
      }
    }
    close(ends[1]);
    int64_t step = 0;
    ASSERT_EQ(read(ends[0], &step, sizeof(step)),
              static_cast<ssize_t>(sizeof(step)));  // at least one is there
    std::this_thread::sleep_for(std::chrono::microseconds(draws.below(30000)));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    do {
      reported = step;
    } while (read(ends[0], &step, sizeof(step)) == sizeof(step));
    close(ends[0]);
    const auto latest = folder.load_latest();
    ASSERT_TRUE(latest.has_value());
    EXPECT_GE(latest->step, reported);
    expect_is(*latest, latest->step);
    reported = latest->step;
  }
}

}  // namespace
}  // namespace trimtab
