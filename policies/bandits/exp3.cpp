// EXP3 (Auer, Cesa-Bianchi, Freund & Schapire, SIAM J. Comput. 32, 2002) in its anytime form without mixing (Bubeck & Cesa-Bianchi,
// Foundations and Trends in Machine Learning 5, 2012, theorem 3.1): p ~ exp(-eta_t L), eta_t = sqrt(ln K / (K t)), where L sums the
// losses 1 - r of each arm, each divided by the chance it was chosen with. Expected regret is at most 2 sqrt(T K ln K) for any sequence
// of rewards fixed in advance; nobody needs to know T.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "policies/bandits/bandit_base.h"

namespace trimtab {
namespace {

class Exp3 final : public BanditBase {
 public:
  explicit Exp3(BanditSetting setting) : BanditBase(std::move(setting)), losses_(arms()), chances_(arms()) {}

 protected:
  int pick(std::span<const float>, Draws draws) override {
    find_chances();
    double left = uniform53(draws);
    // The likeliest arm, where rounding leaves the sum of chances below the draw.
    chosen_ = best_arm(arms(), [&](int arm) { return chances_[arm]; });
    for (int arm = 0; arm < arms(); ++arm) {
      left -= chances_[arm];
      if (left >= 0) continue;
      chosen_ = arm;   // its chance is above 0, so its loss can be divided by it
      break;
    }
    return static_cast<int>(chosen_);
  }
  int pick_best(std::span<const float>) const override {
    return best_arm(arms(), [&](int arm) { return -losses_[arm]; });
  }
  void update(int arm, double reward) override {
    TT_CHECK_EQ(static_cast<int64_t>(arm), chosen_);   // no chance is known of anything else, nor a second time
    losses_[arm] += (1 - unit(reward)) / chances_[arm];
    // Only differences matter, so the least is kept at 0: sums cannot grow until a loss of 1 is lost in them.
    const double least = *std::min_element(losses_.begin(), losses_.end());
    for (double& loss : losses_) loss -= least;
    rounds_ += 1, chosen_ = -1;
  }
  void clear() override {
    std::fill(losses_.begin(), losses_.end(), 0), std::fill(chances_.begin(), chances_.end(), 0);
    rounds_ = 0, chosen_ = -1;
  }
  void state(Archive& a) override {
    a(losses_), a(chances_), a(rounds_), a(chosen_);
    check_restored(losses_, arms()), check_restored(chances_, arms());
    if (chosen_ < -1 || chosen_ >= arms()) throw CheckpointError("saved bandit: an arm that there is not");
  }

 private:
  // The least loss is 0, so the largest weight is exp(0): no overflow, and the sum is at least 1.
  void find_chances() {
    const double count = static_cast<double>(arms()), step = std::sqrt(std::log(count) / (count * static_cast<double>(rounds_ + 1)));
    double sum = 0;
    for (int arm = 0; arm < arms(); ++arm) sum += chances_[arm] = std::exp(-step * losses_[arm]);
    for (double& chance : chances_) chance /= sum;
  }
  std::vector<double> losses_, chances_;   // [K]
  uint64_t rounds_ = 0;
  int64_t chosen_ = -1;                    // what the next reward belongs to; -1: none
};

}  // namespace

std::unique_ptr<BanditPolicy> make_exp3(BanditSetting setting) { return std::make_unique<Exp3>(std::move(setting)); }

}  // namespace trimtab
