// Training by several ranks, here threads of one process: all end with the same parameters, and what they
// make of their rows together is what one rank makes of all of them.
#include "core/ranks.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/run_folder.h"
#include "core/thread_ranks.h"
#include "envs/classic/classic.h"
#include "tests/training_support.h"
#include "trainers/policy_gradient/learner.h"

namespace trimtab {
namespace {

constexpr int64_t kInstances = 16;  // of all ranks

bool is_preset(const std::string& name) { return name == "dler" || name == "dcpo" || name == "gspo"; }

TrainerOptions one_step_of(const std::string& preset, int64_t instances) {
  TrainerOptions t;
  if (is_preset(preset)) {
    controller_preset(Registry<TrainerPreset>::instance().get(preset, "trainer preset")).read(t);
    t.group_size = 4;
    if (preset == "dcpo") t.worlds = 2;  // each twice in one update, by different ranks
  }
  t.num_envs = instances;
  t.horizon = 40;
  t.epochs = 1;
  t.minibatches = 1;
  t.minibatch_size = 0;
  t.value.normalise = true;
  if (preset == "grouped") {
    t.critic = "none";
    t.advantage = "group_mean_std";
    t.aggregation = "episode_mean";
    t.group_size = 4;
  } else if (!is_preset(preset)) {
    t.normalise_advantage = preset;
  }
  return t;
}

// Parameters, optimiser and normalisers of all networks after one update.
Checkpoint state_after(const std::string& preset, Ranks& ranks) {
  Learner learner({.seed = 4,
                   .threads = 1,
                   .controller_options = [](const std::string&) { return ControllerOptions{}; },
                   .dump_stem = "unused",
                   .ranks = &ranks});
  learner.begin_phase({.options = one_step_of(preset, kInstances),
                       .learn = {},
                       .make_environment = [](int64_t size) { return make_cartpole({30}, size); },
                       .first_episode = 0});
  EXPECT_EQ(learner.steps_per_update(), kInstances * 40);
  learner.warm_up();
  learner.update(0);
  Checkpoint checkpoint;
  learner.save_networks(checkpoint);
  return checkpoint;
}

class OneUpdate : public testing::TestWithParam<std::string> {};

// Worlds and actions are numbered through the ranks, so the rows of two ranks are those of one.
TEST_P(OneUpdate, OfTwoRanksIsThatOfOneOverTheSameRows) {
  const Checkpoint whole = state_after(GetParam(), one_process());
  std::vector<TensorFile> parts(2);
  on_ranks(2, [&](Ranks& ranks) {
    const Checkpoint part = state_after(GetParam(), ranks);
    parts[ranks.rank()] = part.state;
    EXPECT_EQ(part.counters, whole.counters);  // of worlds, for dcpo
  });
  const TensorFile& alone = whole.state;
  EXPECT_EQ(whole.counters.contains("worlds"), GetParam() == "dcpo");
  EXPECT_TRUE(serialise_safetensors(parts[0]) == serialise_safetensors(parts[1]));
  constexpr double kRounding = 1e-5;
  ASSERT_EQ(parts[0].tensors.size(), alone.tensors.size());
  for (const auto& [name, tensor] : alone.tensors) {
    const bool wide = name.find("running") != std::string::npos || name.starts_with("returns.");
    if (!wide && name.find("policy.") != 0 && name.find("moment") == std::string::npos) continue;
    const auto compare = [&](const auto expected, const auto actual) {
      ASSERT_EQ(expected.size(), actual.size()) << name;
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_NEAR(actual[i], expected[i], kRounding * (1 + std::abs(expected[i]))) << name << " " << i;
    };
    const Tensor& other = parts[0].at(name);
    wide ? compare(tensor.as_f64(), other.as_f64()) : compare(tensor.as_f32(), other.as_f32());
  }
}

INSTANTIATE_TEST_SUITE_P(Normalised, OneUpdate,
                         testing::Values("minibatch", "batch", "batch_rows", "grouped", "dler", "dcpo",
                                         "gspo"),
                         [](const auto& info) { return info.param; });

Config echo_run() {
  return Config::parse(
      "run: {name: ranks, threads: 1}\nenv: {type: toy_echo}\n"
      "trainer: {preset: happo, steps: 4096, num_envs: 32, horizon: 8, minibatch_size: 128, epochs: 2}\n"
      "eval: {every: 1024, episodes: 8}\ncheckpoint: {every: 1024, keep: 2}\n",
      "ranks.yaml");
}

// `ranks` ranks train into `folder`; the parameters of each after the last update.
std::vector<TestRun> train_on(int size, const std::filesystem::path& folder, int stop_after = 0) {
  std::vector<TestRun> runs(size);
  on_ranks(size, [&](Ranks& ranks) {
    const Config config = echo_run();
    TestRun& run = runs[ranks.rank()];
    TrainHooks hooks{.run_folder = folder, .progress = false, .score = {}, .on_metrics = {}, .ranks = &ranks};
    hooks.on_metrics = [&](int64_t, const auto& metrics) {
      for (const auto& [name, value] : metrics) run.last[name] = value;
      if (++run.updates == stop_after) throw std::runtime_error("stopped by the test");
    };
    try {
      run.result = train(config, hooks);
    } catch (const std::runtime_error&) {
      EXPECT_GT(stop_after, 0);
    }
  });
  return runs;
}

TEST(Ranks, EvaluateTogetherAndOnlyTheMainOneWrites) {
  register_toys();
  const TemporaryFolder folder;
  const std::vector<TestRun> runs = train_on(2, folder.path());
  EXPECT_EQ(runs[0].updates, 4096 / (32 * 8));
  EXPECT_EQ(runs[1].updates, runs[0].updates);
  EXPECT_EQ(runs[0].last.at("eval/return"), runs[1].last.at("eval/return"));
  EXPECT_EQ(runs[0].last.at("train/return"), runs[1].last.at("train/return"));
  EXPECT_EQ(runs[0].result.best_score, runs[1].result.best_score);
  // Steps of one optimiser: the same loss and the same norm everywhere.
  for (const char* name : {"loss/speaker", "grad_norm/listener", "grad_norm/critic", "kl/listener"})
    EXPECT_EQ(runs[0].last.at(name), runs[1].last.at(name)) << name;
  std::set<std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(folder.path()))
    files.insert(file.path().filename().string().substr(0, 6));
  EXPECT_EQ(files, (std::set<std::string>{"checkp", "events", "metric"}));
  const std::string lines = read_file(folder.path() / "metrics.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), runs[0].updates);
}

TEST(Ranks, StoppedAndResumedIsBitEqual) {
  register_toys();
  const TemporaryFolder whole, parts;
  train_on(2, whole.path());
  train_on(2, parts.path(), 5);
  for (const TestRun& run : train_on(2, parts.path())) EXPECT_TRUE(run.result.resumed);
  EXPECT_TRUE(state_of(whole.path()) == state_of(parts.path()));
}

// Two ranks that are told to stop at their fifth update; the second ends the whole process as soon as it may leave, as mpirun does.
void stop_and_leave(const std::filesystem::path& folder) {
  install_interrupt_handler();
  on_ranks(2, [&](Ranks& ranks) {
    TrainHooks hooks{.run_folder = folder, .progress = false, .score = {}, .on_metrics = {}, .ranks = &ranks};
    int updates = 0;
    hooks.on_metrics = [&](int64_t, const auto&) {
      if (++updates == 5 && ranks.is_main()) raise(SIGUSR1);
    };
    try {
      train(echo_run(), hooks);
    } catch (const Interrupted& error) {
      if (!ranks.is_main()) _exit(static_cast<int>(error.code()));
    }
  });
}

TEST(Ranks, NobodyLeavesBeforeTheLastCheckpointIsWritten) {
  register_toys();
  const TemporaryFolder whole, stopped;
  train_on(2, whole.path());
  const pid_t child = fork();   // the handler's flag stays set for the life of a process
  ASSERT_GE(child, 0);
  if (child == 0) {
    stop_and_leave(stopped.path());
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::kInterrupted));
  EXPECT_EQ(CheckpointFolder(stopped.path() / "checkpoints").load("latest").step, 5 * 32 * 8);
  train_on(2, stopped.path());
  EXPECT_TRUE(state_of(whole.path()) == state_of(stopped.path()));
}

// A file system that shows one rank an older checkpoint.
TEST(Ranks, ThatWouldGoOnFromOtherStepsAreRefused) {
  register_toys();
  const TemporaryFolder newer, older;
  train_on(2, newer.path(), 9);
  train_on(2, older.path(), 5);
  try {
    on_ranks(2, [&](Ranks& ranks) {
      train(echo_run(), {.run_folder = ranks.is_main() ? newer.path() : older.path(), .progress = false, .score = {}, .on_metrics = {}, .ranks = &ranks});
    });
    FAIL() << "trained";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("rank 1 has another checkpoint to go on from than rank 0: 'step 1024' against 'step 2048'"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace trimtab
