// Time limit, auto-reset and bookkeeping of the classic environments; see classic_batch.h.
#include "envs/classic/classic_batch.h"

#include <algorithm>
#include <utility>

namespace trimtab {
namespace {

constexpr int64_t kPadding = 8;  // doubles in the widest vector this code meets (512 bits)

}  // namespace

ClassicBatch::ClassicBatch(EnvSpec spec, int num_variables, int64_t size)
    : spec_(std::move(spec)),
      num_variables_(num_variables),
      size_(size),
      padded_((size + kPadding - 1) / kPadding * kPadding),
      state_(num_variables * padded_),
      reward_(padded_),
      ended_(padded_),
      total_(padded_),
      actions_(padded_),
      steps_(size),
      keys_(size) {
  TT_CHECK_GT(size, 0);
}

void ClassicBatch::begin(int64_t instance, WorldKey key) {
  keys_[instance] = key;
  steps_[instance] = 0;
  total_[instance] = 0;
  start(instance, key);
}

void ClassicBatch::reset(std::span<const WorldKey> keys, uint64_t stride) {
  TT_CHECK_EQ(static_cast<int64_t>(keys.size()), size_);
  stride_ = stride;
  for (int64_t i = 0; i < size_; ++i) begin(i, keys[i]);
}

void ClassicBatch::observe(int, ObservationRows out) { write_observation(0, size_, out.context); }
void ClassicBatch::observe_critic(ObservationRows out) { write_observation(0, size_, out.context); }
void ClassicBatch::act(int, const float* actions) { std::copy_n(actions, size_, actions_.begin()); }

void ClassicBatch::step(OutcomeRows out) {
  advance(actions_.data(), reward_.data(), ended_.data());
  const int32_t limit = static_cast<int32_t>(spec_.time_limit);
  int any = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const uint8_t terminated = ended_[i] != 0, truncated = !terminated & (++steps_[i] >= limit);
    out.reward[i] = out.terms[i] = static_cast<float>(reward_[i]);
    total_[i] += reward_[i];
    out.terminated[i] = terminated;
    out.truncated[i] = truncated;
    any |= terminated | truncated;
  }
  if (!any) return;
  for (int64_t i = 0; i < size_; ++i) {
    if (!(out.terminated[i] | out.truncated[i])) continue;
    if (out.final_critic.context) {
      write_observation(i, i + 1, out.final_critic.context + i * spec_.critic.context_size());
    }
    return_sum_ += total_[i];
    length_sum_ += steps_[i];
    ++episodes_;
    begin(i, {keys_[i].seed, keys_[i].episode + stride_});
  }
}

void ClassicBatch::serialise(Archive& archive) {
  int64_t count = size_;
  archive(count);
  if (count != size_) {
    throw CheckpointError(fmt::format("saved state holds {} instances, this run has {}", count, size_));
  }
  archive(stride_);
  archive(state_);
  archive(total_);
  archive(steps_);
  archive(keys_);
  archive(return_sum_);
  archive(length_sum_);
  archive(episodes_);
}

std::vector<BatchEnvironment::Statistic> ClassicBatch::take_statistics() {
  std::vector<Statistic> out;
  if (episodes_ > 0) out = {{"return", return_sum_, episodes_}, {"length", length_sum_, episodes_}};
  return_sum_ = length_sum_ = 0;
  episodes_ = 0;
  return out;
}

std::vector<double> ClassicBatch::state(int64_t instance) const {
  std::vector<double> values(num_variables_);
  for (int v = 0; v < num_variables_; ++v) values[v] = variable(v)[instance];
  return values;
}

void ClassicBatch::set_state(int64_t instance, std::span<const double> values) {
  TT_CHECK_EQ(static_cast<int>(values.size()), num_variables_);
  for (int v = 0; v < num_variables_; ++v) variable(v)[instance] = values[v];
}

}  // namespace trimtab
