#include "policies/bandits/bandit.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/registry.h"
#include "core/text.h"
#include "policies/bandits/bandit_base.h"

namespace trimtab {
namespace {

constexpr int64_t kMostArms = 1 << 16, kMostNumbers = int64_t{1} << 27;   // 1 GiB of inverses
constexpr int64_t kLongestWindow = 10'000'000;

struct Kind {
  MakeBandit make;
  bool contextual;
};
const std::map<std::string, Kind>& kinds() {
  static const std::map<std::string, Kind> kKinds = {
      {"ucb1", {make_ucb1, false}},
      {"discounted_ucb", {make_discounted_ucb, false}},
      {"sliding_window_ucb", {make_sliding_window_ucb, false}},
      {"exp3", {make_exp3, false}},
      {"thompson", {make_thompson, false}},
      {"epsilon_greedy", {make_epsilon_greedy, false}},
      {"linucb", {make_linucb, true}},
      {"linear_thompson", {make_linear_thompson, true}},
  };
  return kKinds;
}

void require(bool met, const char* key, double value, const char* expected) {
  if (!met) throw ConfigError(fmt::format("bandit: {} = {}, but it must be {}", key, value, expected));
}

}  // namespace

void BanditOptions::describe(Fields& f) {
  f.number("reward_low", reward_low, {.doc = "smallest reward there can be; smaller ones count as this"});
  f.number("reward_high", reward_high, {.doc = "largest reward there can be; larger ones count as this"});
  f.number("bonus", bonus, {.low = 0, .high = 1e6, .doc = "ucb1, discounted_ucb, sliding_window_ucb: w in sqrt(w ln t / n)"});
  f.number("discount", discount, {.low = 0.01, .high = 1, .doc = "discounted_ucb: what a reward's weight is multiplied by at each later one"});
  f.integer("window", window, {.low = 1, .high = kLongestWindow, .unit = "rewards", .doc = "sliding_window_ucb: how many of the last ones count"});
  f.number("epsilon", epsilon, {.low = 0, .high = 1, .doc = "epsilon_greedy: chance of an arm drawn evenly"});
  f.number("noise", noise, {.low = 0, .high = 1e6, .doc = "thompson, linear_thompson: deviation of a reward, as a share of the range"});
  f.number("prior_weight", prior_weight, {.low = 1e-9, .high = 1e9, .doc = "thompson: rewards that the prior, the range's middle, is worth"});
  f.number("alpha", alpha, {.low = 0, .high = 1e6, .doc = "linucb: weight of the width of the estimate"});
  f.number("ridge", ridge, {.low = 1e-9, .high = 1e9, .doc = "linucb, linear_thompson: lambda in A = lambda I + sum x x^T"});
}

void BanditOptions::validate() const {
  require(std::isfinite(reward_low), "reward_low", reward_low, "finite");
  require(std::isfinite(reward_high - reward_low) && reward_high > reward_low, "reward_high", reward_high, "finite and above reward_low");
  require(bonus >= 0 && bonus <= 1e6, "bonus", bonus, "from 0 to 1e6");
  require(discount >= 0.01 && discount <= 1, "discount", discount, "from 0.01 to 1");
  require(window >= 1 && window <= kLongestWindow, "window", static_cast<double>(window), "from 1 to 10000000");
  require(epsilon >= 0 && epsilon <= 1, "epsilon", epsilon, "from 0 to 1");
  require(noise >= 0 && noise <= 1e6, "noise", noise, "from 0 to 1e6");
  require(prior_weight >= 1e-9 && prior_weight <= 1e9, "prior_weight", prior_weight, "from 1e-9 to 1e9");
  require(alpha >= 0 && alpha <= 1e6, "alpha", alpha, "from 0 to 1e6");
  require(ridge >= 1e-9 && ridge <= 1e9, "ridge", ridge, "from 1e-9 to 1e9");
}

int BanditBase::choose(std::span<const float> context) {
  check_context(context);
  const auto low = static_cast<uint32_t>(choices_), high = static_cast<uint32_t>(choices_ >> 32);
  ++choices_;
  // The last word keeps these draws apart from a policy's own, which has the same stream.
  return pick(context, Draws(setting_.seed, Stream::kAction, low, high, fnv1a("bandit")));
}

int BanditBase::best(std::span<const float> context) const {
  check_context(context);
  return pick_best(context);
}

void BanditBase::learn(int arm, double reward) {
  TT_CHECK(arm >= 0 && arm < arms(), "arm {} of {}", arm, arms());
  if (!std::isfinite(reward))
    throw RunError(fmt::format("bandit {}: the reward of arm {} is {}, expected a finite number", setting_.name, arm, reward));
  update(arm, std::clamp(reward, options().reward_low, options().reward_high));
}

void BanditBase::reset() {
  choices_ = 0;
  clear();
}

void BanditBase::serialise(Archive& archive) {
  const uint32_t kind = fnv1a(setting_.name);
  const int64_t arms = setting_.shape.arms, context = setting_.shape.context;
  uint32_t saved_kind = kind;
  int64_t saved_arms = arms, saved_context = context;
  archive(saved_kind), archive(saved_arms), archive(saved_context);
  if (saved_kind != kind || saved_arms != arms || saved_context != context)
    throw CheckpointError(fmt::format("saved bandit: {}, expected one of {} with {} arms and {} features",
                                      saved_kind == kind ? fmt::format("{} arms and {} features", saved_arms, saved_context) : "another learner",
                                      setting_.name, arms, context));
  archive(choices_);
  state(archive);
}

void BanditBase::check_context(std::span<const float> context) const {
  TT_CHECK_EQ(static_cast<int64_t>(context.size()), setting_.shape.context);
  for (size_t i = 0; i < context.size(); ++i)
    if (!std::isfinite(context[i]))
      throw RunError(fmt::format("bandit {}: feature {} of the context is {}, expected a finite number", setting_.name, i, context[i]));
}

double uniform53(Draws& draws) {
  const uint64_t high = draws.bits(), low = draws.bits();
  return static_cast<double>((high << 21) ^ (low >> 11)) * 0x1p-53;
}

std::vector<std::string> bandit_names() {
  std::vector<std::string> out;
  for (const auto& [name, kind] : kinds()) out.push_back(name);
  return out;
}

std::unique_ptr<BanditPolicy> make_bandit(const std::string& name, const BanditShape& shape, const BanditOptions& options, uint64_t seed) {
  const auto it = kinds().find(name);
  if (it == kinds().end()) {
    const std::string near = nearest(name, bandit_names());
    throw ConfigError(fmt::format("unknown bandit '{}'; {}", name,
                                  near.empty() ? "expected one of " + join(bandit_names(), ", ") : fmt::format("did you mean '{}'?", near)));
  }
  if (shape.arms < 1 || shape.arms > kMostArms)
    throw ConfigError(fmt::format("bandit {}: {} arms, expected from 1 to {}", name, shape.arms, kMostArms));
  const int64_t fewest = it->second.contextual ? 1 : 0;
  if (shape.context < fewest || shape.context > 4096)
    throw ConfigError(fmt::format("bandit {}: a context of {} features, expected from {} to 4096", name, shape.context, fewest));
  if (it->second.contextual && shape.arms * shape.context * shape.context > kMostNumbers)
    throw ConfigError(fmt::format("bandit {}: {} arms of {} features need more than 1 GiB; use fewer features", name, shape.arms, shape.context));
  options.validate();
  return it->second.make({name, shape, options, seed});
}

}  // namespace trimtab
