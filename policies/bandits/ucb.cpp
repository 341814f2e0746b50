// Upper confidence bounds: UCB1 (Auer, Cesa-Bianchi & Fischer, 2002), discounted and sliding-window UCB (Garivier & Moulines, 2011).
// One index for the three, mean + sqrt(w ln t / n), where n is the arm's own count: dividing by the count of all arms would make the
// bonus equal for all, and the player greedy. The three differ in which rewards count. An arm without a reward comes first.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "policies/bandits/bandit_base.h"

namespace trimtab {
namespace {

class Ucb : public BanditBase {
 public:
  explicit Ucb(BanditSetting setting) : BanditBase(std::move(setting)), counts_(arms()), sums_(arms()) {}

 protected:
  int pick(std::span<const float>, Draws) override {
    // The weights' sum can be below 1 only by rounding.
    const double log_time = std::log(std::max(1.0, total_));
    return best_arm(arms(), [&](int arm) {
      return counts_[arm] > 0 ? mean(arm) + std::sqrt(options().bonus * log_time / counts_[arm]) : std::numeric_limits<double>::infinity();
    });
  }
  int pick_best(std::span<const float>) const override {
    return best_arm(arms(), [&](int arm) { return counts_[arm] > 0 ? mean(arm) : -1; });
  }
  void update(int arm, double reward) override { add(arm, unit(reward)); }
  void clear() override {
    std::fill(counts_.begin(), counts_.end(), 0), std::fill(sums_.begin(), sums_.end(), 0);
    total_ = 0;
  }
  void state(Archive& a) override {
    a(counts_), a(sums_), a(total_);
    check_restored(counts_, arms()), check_restored(sums_, arms());
  }

  virtual void add(int arm, double reward) {
    counts_[arm] += 1, sums_[arm] += reward;
    total_ += 1;
  }
  double mean(int arm) const { return sums_[arm] / counts_[arm]; }

  std::vector<double> counts_, sums_;   // [K] of the rewards that count, by weight
  double total_ = 0;
};

class DiscountedUcb final : public Ucb {
 public:
  using Ucb::Ucb;

 protected:
  void add(int arm, double reward) override {
    const double fade = options().discount;
    for (double& count : counts_) count *= fade;
    for (double& sum : sums_) sum *= fade;
    total_ *= fade;
    Ucb::add(arm, reward);
  }
};

class SlidingWindowUcb final : public Ucb {
 public:
  using Ucb::Ucb;

 protected:
  struct Entry {
    double reward = 0;
    int64_t arm = 0;
  };
  void add(int arm, double reward) override {
    if (static_cast<int64_t>(ring_.size()) < options().window) {
      ring_.push_back({reward, arm});
      Ucb::add(arm, reward);
      return;
    }
    const Entry old = ring_[next_];
    ring_[next_] = {reward, arm};
    counts_[old.arm] -= 1, sums_[old.arm] -= old.reward, total_ -= 1;
    Ucb::add(arm, reward);
    next_ = (next_ + 1) % ring_.size();
    if (next_ == 0) sum_anew();
  }
  void clear() override {
    Ucb::clear();
    ring_.clear(), next_ = 0;
  }
  void state(Archive& a) override {
    Ucb::state(a);
    a(ring_), a(next_);
    const bool known = std::all_of(ring_.begin(), ring_.end(), [&](const Entry& e) { return e.arm >= 0 && e.arm < arms(); });
    if (static_cast<int64_t>(ring_.size()) > options().window || next_ >= std::max<uint64_t>(1, ring_.size()) || !known)
      throw CheckpointError("saved bandit: a window that does not suit this one's");
    if (next_ > 0 && static_cast<int64_t>(ring_.size()) < options().window) throw CheckpointError("saved bandit: a window of another length");
  }

 private:
  // Once in a window, so that rounding of additions and subtractions cannot pile up.
  void sum_anew() {
    std::fill(sums_.begin(), sums_.end(), 0);
    for (const Entry& e : ring_) sums_[e.arm] += e.reward;
  }
  std::vector<Entry> ring_;
  uint64_t next_ = 0;   // the oldest, where the ring is full
};

}  // namespace

std::unique_ptr<BanditPolicy> make_ucb1(BanditSetting setting) { return std::make_unique<Ucb>(std::move(setting)); }
std::unique_ptr<BanditPolicy> make_discounted_ucb(BanditSetting setting) { return std::make_unique<DiscountedUcb>(std::move(setting)); }
std::unique_ptr<BanditPolicy> make_sliding_window_ucb(BanditSetting setting) { return std::make_unique<SlidingWindowUcb>(std::move(setting)); }

}  // namespace trimtab
