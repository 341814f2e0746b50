// Linear bandits with a model by arm: LinUCB (Li, Chu, Langford & Schapire, WWW 2010, algorithm 1, "disjoint") and linear Thompson
// sampling (Agrawal & Goyal, ICML 2013, there with one theta for all arms).
//
// Rewards are divided by the range but not shifted: theta . x stays linear then, also where the context has no constant feature.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "policies/bandits/bandit_base.h"
#include "policies/bandits/ridge_model.h"

namespace trimtab {
namespace {

class Linear : public BanditBase {
 public:
  explicit Linear(BanditSetting setting) : BanditBase(std::move(setting)) { clear(); }

 protected:
  int pick(std::span<const float> context, Draws draws) override {
    last_.assign(context.begin(), context.end());
    pending_ = 1;
    return pick_with_model(context, draws);
  }
  int pick_best(std::span<const float> context) const override {
    return best_arm(arms(), [&](int arm) { return models_[arm].mean(context); });
  }
  void update(int arm, double reward) override {
    TT_CHECK(pending_ == 1, "a reward without a choice before it: its context is not known");
    models_[arm].learn(last_, reward / range());
    pending_ = 0;
  }
  void clear() override {
    models_.assign(arms(), RidgeModel(shape().context, options().ridge));
    last_.assign(shape().context, 0);
    pending_ = 0;
  }
  void state(Archive& a) override {
    // Element by element into models of the right shape, which the general vector would make anew.
    for (RidgeModel& model : models_) a(model);
    a(last_), a(pending_);
    check_restored(last_, shape().context);
  }
  virtual int pick_with_model(std::span<const float> context, Draws& draws) const = 0;

  std::vector<RidgeModel> models_;   // [K]
  std::vector<float> last_;          // context of the last choice
  uint8_t pending_ = 0;              // 1: that choice has no reward yet
};

class LinUcb final : public Linear {
 public:
  using Linear::Linear;

 protected:
  int pick_with_model(std::span<const float> x, Draws&) const override {
    return best_arm(arms(), [&](int arm) { return models_[arm].mean(x) + options().alpha * models_[arm].width(x); });
  }
};

// The posterior of theta is N(A^-1 b, noise^2 A^-1). A choice needs theta . x alone, which is N(mean, (noise width)^2), independently
// by arm: drawing that is the same rule without a Cholesky factor.
class LinearThompson final : public Linear {
 public:
  using Linear::Linear;

 protected:
  int pick_with_model(std::span<const float> x, Draws& draws) const override {
    return best_arm(arms(), [&](int arm) { return models_[arm].mean(x) + options().noise * models_[arm].width(x) * draws.normal(); });
  }
};

}  // namespace

std::unique_ptr<BanditPolicy> make_linucb(BanditSetting setting) { return std::make_unique<LinUcb>(std::move(setting)); }
std::unique_ptr<BanditPolicy> make_linear_thompson(BanditSetting setting) { return std::make_unique<LinearThompson>(std::move(setting)); }

}  // namespace trimtab
