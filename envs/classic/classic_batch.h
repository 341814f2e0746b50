// Classic control, many instances at once: structure of arrays in float64, so that one vector instruction
// steps eight instances and the trajectory is still Gymnasium's to rounding. This base holds what CartPole
// and Pendulum share: the time limit, auto-reset, episode statistics and saving; a derived class advances the
// state and writes observations.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "envs/environment.h"

namespace trimtab {

class ClassicBatch : public BatchEnvironment {
 public:
  const EnvSpec& spec() const override { return spec_; }
  int64_t size() const override { return size_; }
  void reset(std::span<const WorldKey> keys, uint64_t stride) override;
  void observe(int agent, ObservationRows out) override;
  void observe_critic(ObservationRows out) override;
  void act(int agent, const float* actions) override;
  void step(OutcomeRows out) override;
  void serialise(Archive& archive) override;
  std::vector<Statistic> take_statistics() override;

  // One instance's state variables (tests put them where a reference trajectory was).
  std::vector<double> state(int64_t instance) const;
  void set_state(int64_t instance, std::span<const double> values);

 protected:
  ClassicBatch(EnvSpec spec, int num_variables, int64_t size);
  // Advances every instance one step under `actions` [padded N]: reward [padded N] and ended [padded N] (1 or
  // 0).
  virtual void advance(const float* actions, double* reward, double* ended) = 0;
  // Start state of one instance, from its world key alone.
  virtual void start(int64_t instance, WorldKey key) = 0;
  // Observation of instances [first, last), rows of context_size() at `out`.
  virtual void write_observation(int64_t first, int64_t last, float* out) const = 0;

  int64_t padded() const { return padded_; }
  double* variable(int v) { return state_.data() + v * padded_; }
  const double* variable(int v) const { return state_.data() + v * padded_; }

 private:
  void begin(int64_t instance, WorldKey key);

  EnvSpec spec_;
  int num_variables_;
  int64_t size_, padded_;  // padded to whole vectors; the surplus instances are stepped and ignored
  uint64_t stride_ = 1;
  std::vector<double> state_;                   // [variables, padded]
  std::vector<double> reward_, ended_, total_;  // [padded]
  std::vector<float> actions_;                  // [padded]
  std::vector<int32_t> steps_;                  // [N]
  std::vector<WorldKey> keys_;                  // [N]
  double return_sum_ = 0, length_sum_ = 0;
  int64_t episodes_ = 0;
};

}  // namespace trimtab
