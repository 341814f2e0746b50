// Environments: what a trainer or an evaluation steps.
//
// A light environment is written for ONE instance (the `LightEnvironment` concept below: plain state, no
// clock, no allocation after reset, no random state) and LightBatch makes a batch of it. A heavy one
// implements BatchEnvironment itself. Time limit, truncation, final observation and auto-reset live in the
// adaptor only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/archive.h"
#include "core/config.h"
#include "core/registry.h"
#include "core/spec.h"

namespace trimtab {

// The world an episode happens in: same key, same world, whatever the policy does.
struct WorldKey {
  uint64_t seed = 0;
  uint64_t episode = 0;
};

struct EnvSpec {
  std::string name;
  std::vector<AgentSpec> agents;          // in the order of their turns within a step
  ObservationSpec critic;                 // privileged view of the state before the first agent's turn
  std::vector<std::string> reward_terms;  // the reward is their sum; logged apart
  int64_t time_limit = 0;                 // steps per episode; 0: none
};

// Views into the caller's memory; row i belongs to instance i. Absent items are zero with mask 0.
struct ObservationRows {
  float* context = nullptr;  // [N, context_size]
  float* items = nullptr;    // [N, max_items, item_size]
  uint8_t* mask = nullptr;   // [N, max_items] of ItemMask
};
struct OutcomeRows {
  float* reward = nullptr;        // [N]
  float* terms = nullptr;         // [N, reward_terms]
  uint8_t* terminated = nullptr;  // [N] the task ended here: no value beyond
  uint8_t* truncated = nullptr;   // [N] the time limit: bootstrap from `final_critic`
  ObservationRows final_critic;   // [N] critic's view of the last state of an episode that ended in this step
                                  // (other rows untouched)
};

class BatchEnvironment {
 public:
  virtual ~BatchEnvironment() = default;
  virtual const EnvSpec& spec() const = 0;
  virtual int64_t size() const = 0;  // N
  // Instance i starts in world keys[i]; its next episode is keys[i].episode + stride, and so on.
  virtual void reset(std::span<const WorldKey> keys, uint64_t stride) = 0;
  virtual void observe(int agent, ObservationRows out) = 0;
  virtual void observe_critic(ObservationRows out) = 0;
  virtual void act(int agent, const float* actions) = 0;  // [N, head.width()], agents in order
  // What supervised training takes for the right action now; only indices have one. ConfigError where an environment has no labels.
  virtual void labels(int agent, float* out) {  // [N]
    (void)out;
    throw ConfigError(fmt::format("environment '{}' has no labels for agent '{}': supervised training needs them", spec().name,
                                  spec().agents[agent].name));
  }
  virtual void step(OutcomeRows out) = 0;                 // after the last agent's act
  virtual void serialise(Archive& archive) = 0;           // whole state, where no decision is pending
  // Episode statistics since the last call: (name, sum, count), e.g. return, length, throughput; means are
  // logged.
  struct Statistic {
    std::string name;
    double sum;
    int64_t count;
  };
  virtual std::vector<Statistic> take_statistics() = 0;
};

// What a unit registers: TT_REGISTER(EnvironmentEntry, cartpole, {.name = "cartpole", ...}).
struct EnvironmentData {           // the run's `data:` block, resolved
  std::vector<std::string> files;  // trace files of the split in question; empty where none is needed
};
struct EnvironmentEntry {
  std::string name, doc;
  // `config` is the env block; `data` the files of the split. Throws ConfigError or DataError. Thread-safe.
  std::function<std::unique_ptr<BatchEnvironment>(const Config& config, const EnvironmentData& data,
                                                  int64_t size)>
      make;
  std::function<std::vector<FieldLine>()> help;
  std::function<std::string(const Config& config)>
      resolved;  // every key of the env block with its value, YAML
  int preferred_batch = 64;
};

// ---- The adaptor. E: struct with State, spec(), reset, observe, observe_critic, act, step. State is saved
// by its own serialise(Archive&) (or as it lies in memory, if trivially copyable), or by e.serialise(state,
// archive) where it needs the environment's data. Optional: e.label(state, agent), the index that supervised training learns; e.episode_statistics(state, add), with add(name,
// value) at the end of an episode. ----
struct StepOutcome {
  bool terminated = false;
};
template <class E>
concept LightEnvironment = requires(const E& e, typename E::State& s, const typename E::State& cs,
                                    WorldKey key, float* f, uint8_t* m, Archive& a) {
  { e.spec() } -> std::convertible_to<const EnvSpec&>;
  e.reset(s, key);
  e.observe(cs, 0, ObservationRows{});  // writes one row
  e.observe_critic(cs, ObservationRows{});
  e.act(s, 0, static_cast<const float*>(f));             // [head.width()]
  { e.step(s, f) } -> std::convertible_to<StepOutcome>;  // fills reward_terms
};

template <class E>
class LightBatch final : public BatchEnvironment {
 public:
  LightBatch(std::shared_ptr<const E> env, int64_t size) : env_(std::move(env)), slots_(size) {}
  const EnvSpec& spec() const override { return env_->spec(); }
  int64_t size() const override { return static_cast<int64_t>(slots_.size()); }

  void reset(std::span<const WorldKey> keys, uint64_t stride) override {
    TT_CHECK_EQ(static_cast<int64_t>(keys.size()), size());
    stride_ = stride;
    for (int64_t i = 0; i < size(); ++i) {
      slots_[i].state = {};   // what an environment carries from episode to episode (a running rate) begins anew, too
      begin(slots_[i], keys[i]);
    }
  }
  void observe(int agent, ObservationRows out) override {
    const ObservationSpec& s = spec().agents[agent].observation;
    for (int64_t i = 0; i < size(); ++i) env_->observe(slots_[i].state, agent, row(out, s, i));
  }
  void observe_critic(ObservationRows out) override {
    for (int64_t i = 0; i < size(); ++i) env_->observe_critic(slots_[i].state, row(out, spec().critic, i));
  }
  void act(int agent, const float* actions) override {
    const int width = spec().agents[agent].head.width();
    for (int64_t i = 0; i < size(); ++i) env_->act(slots_[i].state, agent, actions + i * width);
  }
  void labels(int agent, float* out) override {
    if constexpr (requires { env_->label(slots_[0].state, agent); }) {
      for (int64_t i = 0; i < size(); ++i) out[i] = static_cast<float>(env_->label(slots_[i].state, agent));
    } else {
      BatchEnvironment::labels(agent, out);
    }
  }
  void step(OutcomeRows out) override {
    const size_t num_terms = spec().reward_terms.size();
    for (int64_t i = 0; i < size(); ++i) {
      Slot& slot = slots_[i];
      const StepOutcome outcome = env_->step(slot.state, out.terms + i * num_terms);
      float reward = 0;
      for (size_t k = 0; k < num_terms; ++k) reward += out.terms[i * num_terms + k];
      out.reward[i] = reward;
      slot.total += reward;
      ++slot.steps;
      out.terminated[i] = outcome.terminated;
      out.truncated[i] = !outcome.terminated && spec().time_limit > 0 && slot.steps >= spec().time_limit;
      if (out.terminated[i] || out.truncated[i]) {
        env_->observe_critic(slot.state, row(out.final_critic, spec().critic, i));
        finish(slot);
        begin(slot, {slot.key.seed, slot.key.episode + stride_});
      }
    }
  }
  void serialise(Archive& archive) override {
    int64_t count = size();
    archive(count);
    if (count != size())
      throw CheckpointError(fmt::format("saved state holds {} instances, this run has {}", count, size()));
    archive(stride_);
    for (Slot& slot : slots_) {
      archive(slot.key);
      archive(slot.steps);
      archive(slot.total);
      if constexpr (requires { env_->serialise(slot.state, archive); })
        env_->serialise(slot.state, archive);
      else
        archive(slot.state);
    }
  }
  std::vector<Statistic> take_statistics() override { return std::exchange(statistics_, {}); }

 private:
  struct Slot {
    typename E::State state;
    WorldKey key;
    int64_t steps = 0;
    double total = 0;
  };
  static ObservationRows row(ObservationRows rows, const ObservationSpec& s, int64_t i) {
    return {rows.context ? rows.context + i * s.context_size() : nullptr,
            rows.items ? rows.items + i * s.max_items * s.item_size() : nullptr,
            rows.mask ? rows.mask + i * s.max_items : nullptr};
  }
  void begin(Slot& slot, WorldKey key) {
    slot.key = key;
    slot.steps = 0;
    slot.total = 0;
    env_->reset(slot.state, key);
  }
  void finish(const Slot& slot) {
    count("return", slot.total);
    count("length", static_cast<double>(slot.steps));
    if constexpr (requires { env_->episode_statistics(slot.state, [](const char*, double) {}); })
      env_->episode_statistics(slot.state, [this](const char* name, double value) { count(name, value); });
  }
  void count(const std::string& name, double value) {
    for (Statistic& s : statistics_) {
      if (s.name != name) continue;
      s.sum += value;
      ++s.count;
      return;
    }
    statistics_.push_back({name, value, 1});
  }

  std::shared_ptr<const E> env_;
  std::vector<Slot> slots_;
  uint64_t stride_ = 1;
  std::vector<Statistic> statistics_;
};

}  // namespace trimtab
