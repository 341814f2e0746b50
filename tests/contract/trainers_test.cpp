// One suite over every trainer preset: it trains, its result does not depend on threads or on being stopped
// and resumed, and it stops on numbers that are not finite. Every file in configs/ can be read.
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "core/run_folder.h"
#include "tests/training_support.h"
#include "trainers/policy_gradient/options.h"

namespace trimtab {
namespace {

std::string echo(const std::string& preset, const std::string& more = "") {
  return "run: {name: contract, threads: 1}\nenv: {type: toy_echo}\n"
         "trainer: {preset: " +
         preset + ", steps: 4096, num_envs: 64, horizon: 8, minibatches: 2, minibatch_size: 0" + more +
         "}\neval: {every: 2048, episodes: 8}\ncheckpoint: {every: 1024, keep: 2}\n";
}

class EveryPreset : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { register_toys(); }
};

TEST_P(EveryPreset, TrainsAndLogsFiniteNumbers) {
  const TemporaryFolder folder;
  const TestRun run = train_in(folder.path(), echo(GetParam()));
  EXPECT_EQ(run.updates, 8);
  EXPECT_EQ(run.result.steps, 4096);
  for (const auto& [name, value] : run.last) EXPECT_TRUE(std::isfinite(value)) << name;
  for (const char* name :
       {"train/return", "reward/named", "loss/speaker", "kl/listener", "entropy/speaker",
        "clip_fraction/speaker", "time/steps_per_second", "time/learning_s", "eval/return"}) {
    EXPECT_TRUE(run.last.contains(name)) << name;
  }
  const Policies policies = load_policies(folder.path(), "best");
  EXPECT_TRUE(policies.contains("speaker") && policies.contains("listener"));
  EXPECT_EQ(load_agents(folder.path(), "latest").size(), 2u);
}

TEST_P(EveryPreset, ThreadsDoNotChangeABit) {
  // Small minibatches (networks in parallel) and large ones (parts in parallel).
  for (const char* more : {"", ", minibatch_size: 512, epochs: 2"}) {
    const TemporaryFolder one, two;
    const std::string yaml =
        echo(GetParam())
            .replace(echo(GetParam()).find(", minibatch_size: 0"), 19, *more ? more : ", minibatch_size: 64");
    train_in(one.path(), yaml, {"run.threads=1"});
    train_in(two.path(), yaml, {"run.threads=2"});
    EXPECT_TRUE(state_of(one.path()) == state_of(two.path()));
  }
}

TEST_P(EveryPreset, StoppedAndResumedIsBitEqual) {
  const TemporaryFolder whole, parts;
  train_in(whole.path(), echo(GetParam()));
  EXPECT_THROW(train_in(parts.path(), echo(GetParam()), {}, 5), std::runtime_error);
  const TestRun rest = train_in(parts.path(), echo(GetParam()));
  EXPECT_TRUE(rest.result.resumed);
  EXPECT_LT(rest.updates, 8);
  EXPECT_TRUE(state_of(whole.path()) == state_of(parts.path()));
}

TEST_P(EveryPreset, SeedsDiffer) {
  const TemporaryFolder a, b;
  train_in(a.path(), echo(GetParam()), {"run.seed=1"});
  train_in(b.path(), echo(GetParam()), {"run.seed=2"});
  EXPECT_FALSE(state_of(a.path()) == state_of(b.path()));
}

TEST_P(EveryPreset, ResolvedConfigIsComplete) {
  const std::string resolved = resolve_config(Config::parse(echo(GetParam()), "x"));
  EXPECT_EQ(resolve_config(Config::parse(resolved, "resolved")), resolved);
}

std::vector<std::string> presets_of_controllers() {
  const Registry<TrainerPreset>& all = Registry<TrainerPreset>::instance();
  std::vector<std::string> names = all.names();
  std::erase_if(names, [&](const std::string& name) { return all.get(name, "trainer preset").yaml.empty(); });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Registered, EveryPreset, testing::ValuesIn(presets_of_controllers()),
                         [](const auto& info) { return info.param; });

TEST(Training, SupervisedLearnsTheLabelsAndNeedsThem) {
  register_toys();
  const TemporaryFolder folder, other;
  const std::string trainer = "trainer: {preset: supervised, steps: 16384, num_envs: 16, horizon: 32, lr: 3e-3}\n";
  const TestRun run = train_in(folder.path(), "run: {name: s}\nenv: {type: toy_echo}\n" + trainer + "eval: {every: 16384, episodes: 32}\n");
  EXPECT_GT(run.last.at("eval/return"), 7.9);   // of 8: every colour named and repeated
  const auto refusal = [&](const std::string& yaml) -> std::string {
    try {
      train_in(other.path(), yaml);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_NE(refusal("run: {name: s}\nenv: {type: cartpole}\n" + trainer).find("no labels"), std::string::npos);
  EXPECT_NE(refusal("run: {name: s}\nenv: {type: toy_echo}\ntrainer: {preset: supervised, steps: 64, ratio: token}\n").find("ratio: none"), std::string::npos);
  EXPECT_NE(refusal("run: {name: s}\nenv: {type: toy_echo}\ntrainer: {preset: supervised, steps: 64, critic: central}\n").find("critic: none"), std::string::npos);
}

const char* const kPhases = R"(
run: {name: phases}
env: {type: toy_echo}
trainer: {preset: happo, num_envs: 64, horizon: 8}
phases:
  - {name: first, steps: 2048, learn: [speaker]}
  - {name: second, steps: 2048, learn: [listener], trainer.epochs: 2}
  - {name: both, steps: 2048, trainer.lr: 1e-4}
eval: {episodes: 4}
checkpoint: {every: 512, keep: 2}
)";

TEST(Training, ResumesInsideAndBetweenPhases) {
  register_toys();
  const TemporaryFolder whole, parts;
  train_in(whole.path(), kPhases);
  EXPECT_THROW(train_in(parts.path(), kPhases, {}, 4),
               std::runtime_error);  // the last update of the first phase
  EXPECT_THROW(train_in(parts.path(), kPhases, {}, 3), std::runtime_error);
  EXPECT_THROW(train_in(parts.path(), kPhases, {}, 3), std::runtime_error);
  train_in(parts.path(), kPhases);
  EXPECT_TRUE(state_of(whole.path()) == state_of(parts.path()));
}

const char* const kCartPole = R"(
run: {name: killed, threads: 2}
env: {type: cartpole}
trainer: {preset: ppo, steps: 60k, num_envs: 16, horizon: 64, minibatch_size: 128, epochs: 4}
eval: {episodes: 0}
checkpoint: {every: 2k, keep: 2}
)";

TEST(Training, KilledAnywhereAndResumedIsBitEqual) {
  const TemporaryFolder whole, killed;
  train_in(whole.path(), kCartPole);
  for (const int wait_ms : {60, 110}) {  // from the first checkpoint of each start to the kill
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      train_in(killed.path(), kCartPole);
      _exit(0);
    }
    constexpr int kPatienceMs = 20000;
    for (int t = 0; t < kPatienceMs && !std::filesystem::exists(killed.path() / "checkpoints" / "latest");
         t += 5) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
  }
  train_in(killed.path(), kCartPole);
  EXPECT_TRUE(state_of(whole.path()) == state_of(killed.path()));
}

TEST(Training, CtrlCLeavesARunThatGoesOnBitEqual) {
  const TemporaryFolder whole, stopped;
  train_in(whole.path(), kCartPole);
  const pid_t child = fork();  // the flag of the handler stays set for the life of a process
  ASSERT_GE(child, 0);
  if (child == 0) {
    install_interrupt_handler();
    TrainHooks hooks{.run_folder = stopped.path(), .progress = false, .score = {}, .on_metrics = {}};
    int updates = 0;
    hooks.on_metrics = [&](int64_t, const auto&) {
      if (++updates == 7) raise(SIGINT);
    };
    try {
      train(Config::parse(kCartPole, "test.yaml"), hooks);
    } catch (const Interrupted& error) {
      _exit(static_cast<int>(error.code()));
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::kInterrupted));
  constexpr int64_t kStepsOfSevenUpdates = 7 * 16 * 64;
  EXPECT_EQ(CheckpointFolder(stopped.path() / "checkpoints").load("latest").step, kStepsOfSevenUpdates);
  EXPECT_TRUE(train_in(stopped.path(), kCartPole).result.resumed);
  EXPECT_TRUE(state_of(whole.path()) == state_of(stopped.path()));
}

TEST(Training, NonFiniteNumbersStopTheRunAndLeaveTheBatch) {
  register_toys();
  const TemporaryFolder folder;
  const std::string yaml =
      "env: {type: toy_broken}\ntrainer: {preset: ppo, steps: 4096, num_envs: 8, horizon: 16}\n";
  try {
    train_in(folder.path(), yaml);
    FAIL() << "training went on with NaN";
  } catch (const RunError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("update 0"), std::string::npos) << message;
    EXPECT_NE(message.find("nonfinite"), std::string::npos) << message;
    EXPECT_NE(message.find("the reward"), std::string::npos) << message;
  }
  bool found = false;
  for (const auto& file : std::filesystem::directory_iterator(folder.path())) {
    if (!file.path().filename().string().starts_with("nonfinite")) continue;
    found = true;
    EXPECT_TRUE(read_safetensors(file.path()).tensors.contains("context.player"));
  }
  EXPECT_TRUE(found);
}

// One world gives a number that is none: found in its update, named, and learned from by nobody.
TEST(Training, ABadNumberIsNamedOrItsUpdateLeftOut) {
  register_toys();
  for (const auto& [environment, name] : {std::pair<std::string, std::string>{"toy_bad_reward", "the reward"}, {"toy_bad_observation", "the observation 'x0' of agent 'player'"}}) {
    const TemporaryFolder stopped, skipped;
    const std::string yaml = "env: {type: " + environment + "}\ntrainer: {preset: ppo, steps: 2048, num_envs: 8, horizon: 16}\n";
    try {
      train_in(stopped.path(), yaml);
      ADD_FAILURE() << environment << " was learned from";
    } catch (const RunError& error) {
      EXPECT_NE(std::string(error.what()).find("update 1: " + name), std::string::npos) << error.what();
    }
    const TestRun run = train_in(skipped.path(), yaml, {"+trainer.guard.non_finite=skip"});
    EXPECT_EQ(run.result.steps, 2048);
    EXPECT_EQ(run.last.at("guard/not_finite/player"), 1);
    for (const auto& [metric, value] : run.last) EXPECT_TRUE(std::isfinite(value)) << metric;
    EXPECT_TRUE(std::filesystem::exists(skipped.path() / "nonfinite-rollout.safetensors"));
  }
}

// The message must name the place and what is wrong.
void expect_refused(const std::string& yaml, const std::string& part) {
  register_toys();
  const TemporaryFolder folder;
  try {
    train_in(folder.path(), yaml);
    FAIL() << "accepted: " << yaml;
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Training, WrongConfigurationsAreRefused) {
  const std::string good = "env: {type: toy_echo}\n";
  expect_refused("trainer: {steps: 10}\n", "env.type");
  expect_refused("env: {type: toy_ecko}\ntrainer: {steps: 10}\n", "toy_echo");
  expect_refused(good + "trainer: {preset: pppo, steps: 10}\n", "ppo");
  expect_refused(good + "trainer: {preset: ppo}\n", "trainer.steps");
  expect_refused(good + "trainer: {preset: ppo, steps: 10, lrr: 1}\n", "lr");
  expect_refused(good + "trainer: {preset: grpo, steps: 10, group_size: 5}\n", "multiple of group_size");
  expect_refused(good + "trainer: {preset: ppo, steps: 10, critic: none}\n", "critic");
  expect_refused(good + "trainer: {preset: grpo, steps: 10, group_size: 1}\n", "group_size");
  expect_refused(good + "trainer: {preset: dcpo, steps: 10, group_size: 1}\n", "group_size");
  expect_refused(good + "trainer: {preset: dcpo, steps: 10, worlds: 0}\n", "worlds");
  expect_refused(good + "trainer: {preset: dcpo, steps: 10, group_score: to_go}\n", "group_score");
  expect_refused(good + "trainer: {preset: ppo, steps: 10, worlds: 8}\n", "worlds");
  expect_refused(good + "trainer: {preset: ppo, steps: 10, ratio: sequence}\n", "group advantage");
  expect_refused(good + "trainer: {preset: gspo, steps: 10, clip: {kind: dynamic}}\n", "ratio: token");
  expect_refused(good + "trainer: {preset: grpo, steps: 10, mismatch: {kind: icepop}}\n", "mismatch");
  expect_refused(good + "trainer: {steps: 10}\npolicy: {speeker: {hidden: [8]}}\n", "speaker");
  expect_refused(good + "trainer: {steps: 10}\npolicy: {speaker: {type: transformer}}\n", "set_encoder");
  expect_refused(good + "phases: [{name: a, steps: 10, learn: [nobody]}]\n", "nobody");
  expect_refused(good + "phases: [{name: a, stepps: 10}]\n", "steps");
  expect_refused(good + "trainer: {steps: 10}\ntrainr: {}\n", "trainer");
  expect_refused(good + "trainer: {steps: 10, reward: {weights: [1]}}\n", "reward terms");
}

TEST(Configs, EveryFileResolves) {
  const std::filesystem::path folder = std::filesystem::path(TRIMTAB_SOURCE_DIR) / "configs";
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".yaml") continue;
    SCOPED_TRACE(file.path().string());
    const std::string resolved = resolve_config(Config::load(file.path()));
    EXPECT_EQ(resolve_config(Config::parse(resolved, "resolved")), resolved);
    ++count;
  }
  EXPECT_GT(count, 1);
}

}  // namespace
}  // namespace trimtab
