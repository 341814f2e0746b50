// What all bandits share: checks, the reward's range, keyed draws, saving. Internal to policies/bandits.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/random.h"
#include "policies/bandits/bandit.h"
#include "policies/bandits/best_arm.h"

namespace trimtab {

struct BanditSetting {
  std::string name;
  BanditShape shape;
  BanditOptions options;
  uint64_t seed = 0;
};

class BanditBase : public BanditPolicy {
 public:
  explicit BanditBase(BanditSetting setting) : setting_(std::move(setting)) {}

  const BanditShape& shape() const final { return setting_.shape; }
  int choose(std::span<const float> context) final;
  int best(std::span<const float> context) const final;
  void learn(int arm, double reward) final;
  void reset() final;
  void serialise(Archive& archive) final;

 protected:
  virtual int pick(std::span<const float> context, Draws draws) = 0;
  virtual int pick_best(std::span<const float> context) const = 0;
  virtual void update(int arm, double reward) = 0;   // clamped to the range, in the range's own units
  virtual void clear() = 0;
  virtual void state(Archive& archive) = 0;

  const BanditOptions& options() const { return setting_.options; }
  int64_t arms() const { return setting_.shape.arms; }
  double range() const { return options().reward_high - options().reward_low; }
  double unit(double reward) const { return (reward - options().reward_low) / range(); }   // [0, 1]

 private:
  void check_context(std::span<const float> context) const;
  BanditSetting setting_;
  uint64_t choices_ = 0;
};

// [0, 1) with 53 bits: 24 of them would never reach an arm whose chance is 1e-8, and its reward is weighted by 1e8.
double uniform53(Draws& draws);
// CheckpointError unless `values` has `size` elements.
template <class T>
void check_restored(const std::vector<T>& values, int64_t size) {
  if (values.size() != static_cast<size_t>(size)) throw CheckpointError("saved bandit: state of another number of arms");
}

using MakeBandit = std::unique_ptr<BanditPolicy> (*)(BanditSetting);
std::unique_ptr<BanditPolicy> make_ucb1(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_discounted_ucb(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_sliding_window_ucb(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_exp3(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_thompson(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_epsilon_greedy(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_linucb(BanditSetting setting);
std::unique_ptr<BanditPolicy> make_linear_thompson(BanditSetting setting);

}  // namespace trimtab
