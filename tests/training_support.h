// What tests of training share: small environments with known optima, and a run in a folder that goes away
// with the test.
#pragma once

#include <gtest/gtest.h>

#include <unistd.h>
#include <array>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint.h"
#include "core/files.h"
#include "core/random.h"
#include "envs/environment.h"
#include "trainers/train.h"

namespace trimtab {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("trimtab-test-{}-{}", getpid(), count++);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct TestRun {
  TrainResult result;
  std::map<std::string, double> last;  // metrics of the last update
  int updates = 0;
};

// Trains into `folder`, or goes on there. `stop_after` > 0: throws std::runtime_error after so many updates
// of this call.
inline TestRun train_in(const std::filesystem::path& folder, const std::string& yaml,
                        const std::vector<std::string>& overrides = {}, int stop_after = 0) {
  Config config = Config::parse(yaml, "test.yaml");
  for (const std::string& change : overrides) config.apply(change);
  write_file_atomically(folder / "config.yaml", resolve_config(config));
  TestRun run;
  TrainHooks hooks{.run_folder = folder, .progress = false, .score = {}, .on_metrics = {}};
  hooks.on_metrics = [&](int64_t, const auto& metrics) {
    for (const auto& [name, value] : metrics) run.last[name] = value;
    if (++run.updates == stop_after) throw std::runtime_error("stopped by the test");
  };
  run.result = train(config, hooks);
  return run;
}

// Every byte that training goes on from.
inline std::string state_of(const std::filesystem::path& folder) {
  const Checkpoint checkpoint = CheckpointFolder(folder / "checkpoints").load("latest");
  std::string all =
      serialise_safetensors(checkpoint.state) + checkpoint.counters.dump() + std::to_string(checkpoint.step);
  for (const auto& [name, blob] : checkpoint.blobs) all += name + blob;
  return all;
}

inline std::vector<Feature> toy_features(int count) {
  std::vector<Feature> out;
  for (int i = 0; i < count; ++i) out.push_back({"x" + std::to_string(i), "", -10, 10});
  return out;
}

// Five arms; the middle one pays best. One step per episode.
struct Bandit {
  static constexpr std::array<float, 5> kPay = {0.1f, 0.3f, 0.9f, 0.2f, 0.5f};
  static constexpr double kBest = 0.9, kRandom = 0.4;
  struct State {
    float paid = 0;
  };
  EnvSpec description{.name = "toy_bandit",
                      .agents = {{"player",
                                  {.context = toy_features(1), .item = {}, .max_items = 0},
                                  {.kind = HeadKind::kCategorical, .size = 5}}},
                      .critic = {.context = toy_features(1), .item = {}, .max_items = 0},
                      .reward_terms = {"pay"},
                      .time_limit = 1};
  const EnvSpec& spec() const { return description; }
  void reset(State& s, WorldKey) const { s = {}; }
  void observe(const State&, int, ObservationRows out) const { out.context[0] = 1; }
  void observe_critic(const State&, ObservationRows out) const { out.context[0] = 1; }
  void act(State& s, int, const float* action) const { s.paid = kPay[static_cast<int>(action[0])]; }
  StepOutcome step(State& s, float* terms) const {
    terms[0] = s.paid;
    return {.terminated = true};
  }
};

// A deceptive chain of five states: left pays 0.1 and leads to the start; right pays nothing, except 1 at the
// far end. Ten steps; the best return is found by backward induction.
struct Chain {
  static constexpr int kStates = 5, kSteps = 10;
  struct State {
    int32_t place = 0, right = 0;
  };
  EnvSpec description{.name = "toy_chain",
                      .agents = {{"walker",
                                  {.context = toy_features(kStates), .item = {}, .max_items = 0},
                                  {.kind = HeadKind::kCategorical, .size = 2}}},
                      .critic = {.context = toy_features(kStates), .item = {}, .max_items = 0},
                      .reward_terms = {"pay"},
                      .time_limit = kSteps};
  static std::pair<int, double> move(int place, bool right) {
    if (!right) return {0, 0.1};
    return place == kStates - 1 ? std::pair{place, 1.0} : std::pair{place + 1, 0.0};
  }
  static double best_return() {
    std::array<double, kStates> value{};
    for (int t = 0; t < kSteps; ++t) {
      std::array<double, kStates> before{};
      for (int s = 0; s < kStates; ++s) {
        for (const bool right : {false, true}) {
          const auto [next, pay] = move(s, right);
          before[s] = std::max(before[s], pay + value[next]);
        }
      }
      value = before;
    }
    return value[0];
  }
  const EnvSpec& spec() const { return description; }
  void reset(State& s, WorldKey) const { s = {}; }
  void observe(const State& s, int, ObservationRows out) const { observe_critic(s, out); }
  void observe_critic(const State& s, ObservationRows out) const {
    for (int i = 0; i < kStates; ++i) out.context[i] = i == s.place;
  }
  void act(State& s, int, const float* action) const { s.right = action[0] > 0.5f; }
  StepOutcome step(State& s, float* terms) const {
    const auto [next, pay] = move(s.place, s.right);
    s.place = next;
    terms[0] = static_cast<float>(pay);
    return {};
  }
};

// Shares of a budget over two to four present elements with weights w: reward -KL(w || shares), best 0 at
// shares = w.
struct Allocation {
  static constexpr int kItems = 4;
  static constexpr float kFloor = 1e-6f;
  struct State {
    std::array<float, kItems> weight{}, share{};
    int32_t present = 0;
  };
  EnvSpec description{.name = "toy_allocation",
                      .agents = {{"allocator",
                                  {.context = toy_features(1), .item = toy_features(1), .max_items = kItems},
                                  {.kind = HeadKind::kSimplex, .size = kItems}}},
                      .critic = {.context = toy_features(1), .item = toy_features(1), .max_items = kItems},
                      .reward_terms = {"fit"},
                      .time_limit = 1};
  const EnvSpec& spec() const { return description; }
  void reset(State& s, WorldKey key) const {
    Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode));
    s = {};
    s.present = 2 + static_cast<int32_t>(draws.below(3));
    float sum = 0;
    for (int i = 0; i < s.present; ++i) sum += s.weight[i] = 0.1f + draws.exponential();
    for (float& w : s.weight) w /= sum;
  }
  void observe(const State& s, int, ObservationRows out) const { observe_critic(s, out); }
  void observe_critic(const State& s, ObservationRows out) const {
    out.context[0] = 1;
    for (int i = 0; i < kItems; ++i) {
      out.mask[i] = i < s.present;
      out.items[i] = out.mask[i] ? std::log(s.weight[i]) : 0;
    }
  }
  void act(State& s, int, const float* action) const { std::copy_n(action, kItems, s.share.begin()); }
  StepOutcome step(State& s, float* terms) const {
    terms[0] = 0;
    for (int i = 0; i < s.present; ++i)
      terms[0] -= s.weight[i] * std::log(s.weight[i] / std::max(s.share[i], kFloor));
    return {.terminated = true};
  }
};

// Two agents in turn: the first should name the colour it sees, the second repeat what the first said. Best
// return per step 1, random 1/3. Eight steps, a new colour each.
struct Echo {
  static constexpr int kColours = 3;
  struct State {
    WorldKey key;
    int32_t step = 0, colour = 0, said = 0, repeated = 0;
  };
  EnvSpec description{.name = "toy_echo",
                      .agents = {{"speaker",
                                  {.context = toy_features(kColours), .item = {}, .max_items = 0},
                                  {.kind = HeadKind::kCategorical, .size = kColours}},
                                 {"listener",
                                  {.context = toy_features(kColours), .item = {}, .max_items = 0},
                                  {.kind = HeadKind::kCategorical, .size = kColours}}},
                      .critic = {.context = toy_features(kColours), .item = {}, .max_items = 0},
                      .reward_terms = {"named", "repeated"},
                      .time_limit = 8};
  const EnvSpec& spec() const { return description; }
  void paint(State& s) const {
    s.colour = static_cast<int32_t>(
        random_words(s.key.seed, Stream::kWorld,
                     {static_cast<uint32_t>(s.key.episode), static_cast<uint32_t>(s.step)})[0] %
        kColours);
  }
  void reset(State& s, WorldKey key) const {
    s = {.key = key};
    paint(s);
  }
  void observe(const State& s, int agent, ObservationRows out) const {
    for (int i = 0; i < kColours; ++i) out.context[i] = i == (agent == 0 ? s.colour : s.said);
  }
  void observe_critic(const State& s, ObservationRows out) const { observe(s, 0, out); }
  void act(State& s, int agent, const float* action) const {
    (agent == 0 ? s.said : s.repeated) = static_cast<int32_t>(action[0]);
  }
  int label(const State& s, int agent) const { return agent == 0 ? s.colour : s.said; }
  StepOutcome step(State& s, float* terms) const {
    terms[0] = 0.5f * (s.said == s.colour);
    terms[1] = 0.5f * (s.repeated == s.said);
    ++s.step;
    paint(s);
    return {};
  }
};

// Numbers that are none: a reward from the third step on, or a reward or an observation in one world alone.
enum class Fault { kReward, kRewardOnce, kObservationOnce };
template <Fault kFault>
struct Broken {
  static constexpr uint64_t kWorld = 20;
  struct State {
    WorldKey key;
    int32_t step = 0;
  };
  EnvSpec description{.name = "toy_broken",
                      .agents = {{"player",
                                  {.context = toy_features(1), .item = {}, .max_items = 0},
                                  {.kind = HeadKind::kCategorical, .size = 2}}},
                      .critic = {.context = toy_features(1), .item = {}, .max_items = 0},
                      .reward_terms = {"pay"},
                      .time_limit = 8};
  static bool once(const State& s) { return s.key.episode == kWorld && s.step == 2; }
  const EnvSpec& spec() const { return description; }
  void reset(State& s, WorldKey key) const { s = {.key = key}; }
  void observe(const State& s, int, ObservationRows out) const {
    out.context[0] = kFault == Fault::kObservationOnce && once(s) ? std::nanf("") : 1;
  }
  void observe_critic(const State&, ObservationRows out) const { out.context[0] = 1; }
  void act(State&, int, const float*) const {}
  StepOutcome step(State& s, float* terms) const {
    terms[0] = kFault == Fault::kRewardOnce && once(s) ? HUGE_VALF : 1.0f;
    if (++s.step >= 3 && kFault == Fault::kReward) terms[0] = std::nanf("");
    return {};
  }
};

struct NoKeys {
  void describe(Fields&) {}
};

template <class E>
EnvironmentEntry toy_entry(const std::string& name) {
  return {.name = name,
          .doc = "a test's own",
          .make = [](const Config& config, const EnvironmentData&,
                     int64_t size) -> std::unique_ptr<BatchEnvironment> {
            NoKeys none;
            config.read(none, {"type"});
            return std::make_unique<LightBatch<E>>(std::make_shared<const E>(), size);
          },
          .help = [] { return std::vector<FieldLine>(); },
          .resolved = [](const Config&) { return std::string(); },
          .preferred_batch = 16};
}

// Call once per program, before anything trains.
inline void register_toys() {
  Registry<EnvironmentEntry>& all = Registry<EnvironmentEntry>::instance();
  static const bool once = all.add(toy_entry<Bandit>("toy_bandit")) &&
                           all.add(toy_entry<Chain>("toy_chain")) &&
                           all.add(toy_entry<Allocation>("toy_allocation")) &&
                           all.add(toy_entry<Echo>("toy_echo")) && all.add(toy_entry<Broken<Fault::kReward>>("toy_broken")) &&
                           all.add(toy_entry<Broken<Fault::kRewardOnce>>("toy_bad_reward")) &&
                           all.add(toy_entry<Broken<Fault::kObservationOnce>>("toy_bad_observation"));
  ASSERT_TRUE(once);
}

}  // namespace trimtab
