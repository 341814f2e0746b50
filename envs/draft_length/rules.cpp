#include "envs/draft_length/rules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "policies/bandits/bandit.h"

namespace trimtab {
namespace {

constexpr int kConfidences[] = {20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95};          // percent
constexpr int kEntropies[] = {5, 10, 20, 30, 40, 50, 60, 70, 80, 100, 120, 150, 200};   // hundredths of a nat
constexpr int kPaths[] = {10, 20, 30, 40, 50, 60, 70, 80, 90};                         // percent
constexpr int kRisks[] = {10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 98};               // percent

// What the next token costs: as the caller knows it, else by the cost model.
double token_ms(const DraftState& s, const DraftCost& cost) { return s.token_ms > 0 ? s.token_ms : cost.draft_ms(s.batch); }

// A length at the start of every round.
class LengthRule : public DraftControl {
 public:
  bool go_on(const DraftState& s) override { return static_cast<int64_t>(s.drafted.size()) < limit(s); }
};

// Goes on while what was drafted last looks well.
class StopRule final : public DraftControl {
 public:
  using Well = std::function<bool(const DraftState&)>;
  explicit StopRule(Well well) : well_(std::move(well)) {}
  bool go_on(const DraftState& s) override { return s.drafted.empty() || well_(s); }

 private:
  Well well_;
};

std::unique_ptr<DraftControl> confidence_rule(double least) {
  return std::make_unique<StopRule>([least](const DraftState& s) { return s.drafted.back().top >= least; });
}
std::unique_ptr<DraftControl> entropy_rule(double most) {
  return std::make_unique<StopRule>([most](const DraftState& s) { return s.drafted.back().entropy <= most; });
}
std::unique_ptr<DraftControl> path_rule(double least) {
  return std::make_unique<StopRule>([least](const DraftState& s) {
    double product = 1;
    for (const DraftedToken& t : s.drafted) product *= t.top;
    return product >= least;
  });
}

class HfRule final : public LengthRule {
 public:
  explicit HfRule(int64_t most) : most_(most) {}
  int64_t limit(const DraftState&) override { return length_; }
  void learn(const DraftState& s, int64_t accepted) override {
    const int64_t drafted = static_cast<int64_t>(s.drafted.size());
    length_ = accepted == drafted ? std::min(most_, length_ + 2) : std::max<int64_t>(1, length_ - 1);
  }

 private:
  int64_t most_, length_ = 5;
};

class SmartSpecRule final : public LengthRule {
 public:
  explicit SmartSpecRule(const DraftRuleOptions& o) : o_(o) {}
  int64_t limit(const DraftState& s) override {
    const double a = std::min(0.9999, static_cast<double>(s.acceptance));
    int64_t best = 0;
    double best_rate = 0;
    for (int64_t k = 0; k <= o_.most_drafted; ++k) {
      const double tokens = (1 - std::pow(a, static_cast<double>(k + 1))) / (1 - a);
      const double rate = tokens / (static_cast<double>(k) * token_ms(s, o_.cost) + o_.cost.round_ms(k, s.batch));
      if (rate > best_rate) best = k, best_rate = rate;
    }
    return best;
  }

 private:
  DraftRuleOptions o_;
};

class DiffuSpecRule final : public LengthRule {
 public:
  explicit DiffuSpecRule(int64_t most) : most_(most), average_(static_cast<double>(most) / 2) {}
  int64_t limit(const DraftState&) override { return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(average_)) + (all_ ? kMore : 0), 1, most_); }
  void learn(const DraftState& s, int64_t accepted) override {
    all_ = accepted == static_cast<int64_t>(s.drafted.size());
    average_ += 0.5 * (static_cast<double>(accepted) - average_);
  }

 private:
  static constexpr int64_t kMore = 2;
  int64_t most_;
  double average_;
  bool all_ = false;
};

// Candidate steps, the middle one first; up when the average accepted length comes within half a token of the present tier, down when it
// falls below the same border of the tier beneath by a margin.
class SglangRule final : public LengthRule {
 public:
  explicit SglangRule(int64_t most) {
    for (const int64_t tier : {1, 3, 7, 11, 15})
      if (tier <= most) tiers_.push_back(tier);
    at_ = tiers_.size() / 2, average_ = static_cast<double>(tiers_[at_]);
  }
  int64_t limit(const DraftState&) override { return tiers_[at_]; }
  void learn(const DraftState&, int64_t accepted) override {
    average_ += kNewest * (static_cast<double>(accepted) - average_);
    if (++rounds_ < kInterval) return;
    rounds_ = 0;
    if (at_ + 1 < tiers_.size() && average_ > static_cast<double>(tiers_[at_]) - 0.5) ++at_;
    else if (at_ > 0 && average_ < static_cast<double>(tiers_[at_ - 1]) - 0.5 - kDownMargin) --at_;
  }

 private:
  static constexpr double kNewest = 0.2, kDownMargin = 0.25;
  static constexpr int64_t kInterval = 5;   // rounds between changes
  std::vector<int64_t> tiers_;
  size_t at_ = 0;
  double average_ = 0;
  int64_t rounds_ = 0;
};

// A bandit whose arms are rules; a round's reward is tokens - rate time.
class BanditRule final : public DraftControl {
 public:
  BanditRule(const std::string& bandit, std::vector<std::unique_ptr<DraftControl>> arms, const DraftRuleOptions& o) : o_(o), arms_(std::move(arms)), contextual_(bandit == "linucb") {
    BanditOptions options;
    options.reward_low = -static_cast<double>(o.most_drafted) / 2, options.reward_high = static_cast<double>(o.most_drafted) / 2, options.bonus = 0.2, options.alpha = 0.3;
    bandit_ = make_bandit(bandit, {static_cast<int64_t>(arms_.size()), contextual_ ? static_cast<int64_t>(context_.size()) : 0}, options, o.seed);
  }
  int64_t limit(const DraftState& s) override {
    context_ = {1, static_cast<float>(s.last_accepted) / static_cast<float>(o_.most_drafted), s.acceptance, s.last_entropy, std::min(1.0f, s.last_entropy)};
    arm_ = bandit_->choose(contextual_ ? std::span<const float>(context_) : std::span<const float>());
    return arms_[arm_]->limit(s);
  }
  bool go_on(const DraftState& s) override { return arms_[arm_]->go_on(s); }
  void learn(const DraftState& s, int64_t accepted) override {
    const int64_t drafted = static_cast<int64_t>(s.drafted.size());
    const double ms = static_cast<double>(drafted) * token_ms(s, o_.cost) + o_.cost.round_ms(drafted, s.batch);
    bandit_->learn(arm_, static_cast<double>(accepted + 1) - o_.rate * ms);
  }

 private:
  DraftRuleOptions o_;
  std::vector<std::unique_ptr<DraftControl>> arms_;
  bool contextual_;
  std::array<float, 5> context_ = {};
  std::unique_ptr<Bandit> bandit_;
  int arm_ = 0;
};

std::vector<std::unique_ptr<DraftControl>> lengths(int64_t most) {
  std::vector<std::unique_ptr<DraftControl>> out;
  for (int64_t k = 0; k <= most; ++k) out.push_back(std::make_unique<FixedDraft>(k));
  return out;
}
std::vector<std::unique_ptr<DraftControl>> stop_rules() {
  std::vector<std::unique_ptr<DraftControl>> out;
  for (const int p : {40, 60, 75, 90}) out.push_back(confidence_rule(p / 100.0));
  for (const int e : {20, 50, 100}) out.push_back(entropy_rule(e / 100.0));
  for (const int p : {30, 60}) out.push_back(path_rule(p / 100.0));
  return out;
}

// "entropy_50" after "entropy_": 50; -1 when the name is another's.
int number_behind(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) && name.size() > prefix.size() ? std::stoi(name.substr(prefix.size())) : -1;
}

}  // namespace

std::vector<std::string> draft_rule_names(int64_t most_drafted, bool with_head) {
  std::vector<std::string> out = {"none"};
  for (int64_t k = 1; k <= most_drafted; ++k) out.push_back(fmt::format("fixed_{}", k));
  for (const int p : kConfidences) out.push_back(fmt::format("confidence_{}", p));
  for (const int e : kEntropies) out.push_back(fmt::format("entropy_{}", e));
  for (const int p : kPaths) out.push_back(fmt::format("path_{}", p));
  if (with_head)
    for (const int h : kRisks) out.push_back(fmt::format("specdec_{}", h));
  for (const char* name : {"hf", "smartspec", "diffuspec", "sglang", "ucb1", "exp3", "thompson", "linucb", "tapout"}) out.push_back(name);
  return out;
}

bool learns_while_running(const std::string& rule) {
  constexpr std::array<std::string_view, 5> kLearners = {"ucb1", "exp3", "thompson", "linucb", "tapout"};
  return std::find(kLearners.begin(), kLearners.end(), rule) != kLearners.end();
}

std::unique_ptr<DraftControl> make_draft_rule(const std::string& name, const DraftRuleOptions& o) {
  const std::vector<std::string> known = draft_rule_names(o.most_drafted, o.head != nullptr);
  if (o.head == nullptr && name.starts_with("specdec_"))
    throw ConfigError(fmt::format("rule '{}' needs an acceptance head: make one with `trimtab fit acceptance` and give it as env.head", name));
  if (std::find(known.begin(), known.end(), name) == known.end()) throw ConfigError(fmt::format("there is no rule '{}' for draft lengths up to {}", name, o.most_drafted));
  if (name == "none") return std::make_unique<FixedDraft>(0);
  if (const int k = number_behind(name, "fixed_"); k >= 0) return std::make_unique<FixedDraft>(k);
  if (const int p = number_behind(name, "confidence_"); p >= 0) return confidence_rule(p / 100.0);
  if (const int e = number_behind(name, "entropy_"); e >= 0) return entropy_rule(e / 100.0);
  if (const int p = number_behind(name, "path_"); p >= 0) return path_rule(p / 100.0);
  if (const int h = number_behind(name, "specdec_"); h >= 0) return make_acceptance_control(o.head, h / 100.0);
  if (name == "hf") return std::make_unique<HfRule>(o.most_drafted);
  if (name == "smartspec") return std::make_unique<SmartSpecRule>(o);
  if (name == "diffuspec") return std::make_unique<DiffuSpecRule>(o.most_drafted);
  if (name == "sglang") return std::make_unique<SglangRule>(o.most_drafted);
  if (name == "tapout") return std::make_unique<BanditRule>("ucb1", stop_rules(), o);
  return std::make_unique<BanditRule>(name, lengths(o.most_drafted), o);
}

}  // namespace trimtab
