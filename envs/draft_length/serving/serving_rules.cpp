#include "envs/draft_length/serving/serving_rules.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "envs/draft_length/rules.h"

namespace trimtab {
namespace {

using State = DraftServing::State;

int64_t size_of(const State& s) { return static_cast<int64_t>(s.batch.size()); }

class FixedServing final : public ServingRule {
 public:
  explicit FixedServing(int64_t length) : length_(length) {}
  int64_t length(const State&) override { return length_; }

 private:
  int64_t length_;
};

class TableServing final : public ServingRule {
 public:
  explicit TableServing(const DraftServing& env) : env_(env) {}
  int64_t length(const State& s) override { return env_.best_length(size_of(s)); }

 private:
  const DraftServing& env_;
};

class SmartSpecServing final : public ServingRule {
 public:
  explicit SmartSpecServing(const DraftServing& env) : env_(env) {}
  int64_t length(const State& s) override {
    int64_t best = 0;
    double best_rate = 0;
    for (const int64_t k : env_.lengths()) {
      double tokens = 0;
      for (const DraftServing::Sequence& q : s.batch) {
        const double a = std::min(0.9999, static_cast<double>(q.acceptance));
        tokens += (1 - std::pow(a, static_cast<double>(k + 1))) / (1 - a);
      }
      if (const double rate = tokens / env_.round_ms(k, size_of(s)); rate > best_rate) best = k, best_rate = rate;
    }
    return best;
  }

 private:
  const DraftServing& env_;
};

// A rule for one sequence, fed with the batch: its mean acceptance and accepted length. A rule for each power of two of the batch size, or
// one for all.
class BatchedControl final : public ServingRule {
 public:
  BatchedControl(const std::string& name, const DraftServing& env, bool by_batch, uint64_t seed) : env_(env) {
    const int64_t most_batch = by_batch ? env.options().max_batch : 1;
    for (int64_t batch = 1; batch <= most_batch; batch *= 2)
      controls_.push_back(make_draft_rule(name, {env.most_drafted(), env.options().cost, batch, env.reference_rate(batch), seed + controls_.size()}));
  }
  int64_t length(const State& s) override {
    const DraftServing::BatchView v = env_.view(s);
    state_ = {.batch = size_of(s), .most = env_.most_drafted(), .last_drafted = last_drafted_, .last_accepted = last_accepted_, .acceptance = static_cast<float>(v.acceptance),
              .token_ms = env_.options().cost.draft_ms(size_of(s)), .last_entropy = static_cast<float>(v.last_entropy)};
    return std::min(env_.most_drafted(), control(state_.batch).limit(state_));
  }
  void learn(const DraftServing::Round& r) override {
    // A mean as a whole number that is right on average: a fraction is rounded up as often as it says.
    up_ = std::fmod(up_ + kGolden, 1.0);
    const double mean = static_cast<double>(r.accepted) / static_cast<double>(r.batch);
    last_drafted_ = r.length, last_accepted_ = std::min(r.length, static_cast<int64_t>(mean + up_));
    drafted_.resize(r.length);
    state_.drafted = drafted_;
    control(r.batch).learn(state_, last_accepted_);
  }

 private:
  static constexpr double kGolden = 0.6180339887498949;
  DraftControl& control(int64_t batch) { return *controls_[std::min(controls_.size(), static_cast<size_t>(std::bit_width(static_cast<uint64_t>(batch)))) - 1]; }

  const DraftServing& env_;
  std::vector<std::unique_ptr<DraftControl>> controls_;
  DraftState state_;
  std::vector<DraftedToken> drafted_;
  int64_t last_drafted_ = 0, last_accepted_ = -1;
  double up_ = 0;
};

std::string name_of(int64_t length) { return length == 0 ? "none" : fmt::format("fixed_{}", length); }

}  // namespace

std::vector<std::string> serving_rule_names(const DraftServing& env) {
  std::vector<std::string> out;
  for (const int64_t k : env.lengths()) out.push_back(name_of(k));
  for (const char* name : {"table", "smartspec", "hf", "diffuspec", "sglang", "ucb1"}) out.push_back(name);
  return out;
}

std::unique_ptr<ServingRule> make_serving_rule(const std::string& name, const DraftServing& env, uint64_t seed) {
  for (const int64_t k : env.lengths())
    if (name == name_of(k)) return std::make_unique<FixedServing>(k);
  if (name == "table") return std::make_unique<TableServing>(env);
  if (name == "smartspec") return std::make_unique<SmartSpecServing>(env);
  const std::vector<std::string> known = serving_rule_names(env);
  if (std::find(known.begin(), known.end(), name) == known.end()) throw ConfigError(fmt::format("there is no rule '{}' for draft lengths {} of a server", name, env.options().lengths));
  return std::make_unique<BatchedControl>(name, env, learns_while_running(name), seed);
}

}  // namespace trimtab
