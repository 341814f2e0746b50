#include "envs/draft_length/optimum.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace trimtab {
namespace {

using Moods = std::array<double, 2>;   // probabilities: easy, hard
double sum(const Moods& m) { return m[0] + m[1]; }
Moods times(const Moods& a, const Moods& b) { return {a[0] * b[0], a[1] * b[1]}; }

constexpr int64_t kBestLength = -1;

class RoundValue {
 public:
  // fixed: drafts of every round, or kBestLength.
  RoundValue(const SyntheticProblem& p, double lambda, int64_t fixed) : p_(p), lambda_(lambda), fixed_(fixed) {}

  // The average of tokens - lambda time per round.
  double gain() {
    double gain = 0;
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      const Moods now = {value(0, {1, 0}, {1, 0}), value(0, {0, 1}, {0, 1})};
      gain = now[0];
      worth_ = {0, now[1] - now[0]};
    }
    return gain;
  }

 private:
  static constexpr int kSweeps = 60;   // the mood is forgotten by a factor per round: far below rounding

  Moods next(const Moods& m) const {
    const double hard = m[0] * p_.drafts.to_hard(0) + m[1] * p_.drafts.to_hard(1);
    return {sum(m) - hard, hard};
  }
  double committed(const Moods& last, int64_t tokens) const { return sum(last) * static_cast<double>(tokens) + last[0] * worth_[0] + last[1] * worth_[1]; }

  // What is still to come of a round after `depth` drafts and one sequence of signs, times its probability. `all`: of these signs and the
  // last token's mood; `alive`: of that and every draft being accepted.
  double value(int64_t depth, const Moods& all, const Moods& alive) const {
    const bool may_go = depth < p_.drafts.most_drafted && (fixed_ == kBestLength || depth < fixed_);
    const bool may_stop = fixed_ == kBestLength || depth == fixed_;
    const double stop = committed(next(alive), depth + 1) - lambda_ * sum(all) * p_.cost.round_ms(depth, p_.batch);
    if (!may_go) return stop;
    const double go = draft(depth, all, alive);
    return may_stop ? std::max(stop, go) : go;
  }
  double draft(int64_t depth, const Moods& all, const Moods& alive) const {
    const Moods coming = next(alive), coming_all = next(all), kept = times(coming, p_.drafts.accept());
    const Moods rejected = {coming[0] - kept[0], coming[1] - kept[1]};
    double out = committed(rejected, depth + 1) - lambda_ * sum(all) * p_.cost.draft_ms(p_.batch);
    for (const double easy_shown : {p_.drafts.signal, 1 - p_.drafts.signal}) {
      const Moods shown = {easy_shown, 1 - easy_shown};   // probability of this sign at an easy and at a hard position
      out += value(depth + 1, times(coming_all, shown), times(kept, shown));
    }
    return out;
  }

  const SyntheticProblem& p_;
  double lambda_;
  int64_t fixed_;
  Moods worth_ = {};   // of a round that starts behind a token of this mood, relative to behind an easy one
};

// The lambda at which nothing is gained: the gain falls with it.
double rate_of(const SyntheticProblem& p, int64_t fixed) {
  double low = 0, high = static_cast<double>(p.drafts.most_drafted + 1) / p.cost.round_ms(0, p.batch);
  for (int i = 0; i < 50; ++i) {
    const double middle = (low + high) / 2;
    (RoundValue(p, middle, fixed).gain() > 0 ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace

double optimal_rate(const SyntheticProblem& p) { return rate_of(p, kBestLength); }
double fixed_rate(const SyntheticProblem& p, int64_t tokens) { return rate_of(p, tokens); }
int64_t best_fixed(const SyntheticProblem& p) {
  int64_t best = 0;
  double best_rate = 0;
  for (int64_t k = 0; k <= p.drafts.most_drafted; ++k)
    if (const double rate = fixed_rate(p, k); rate > best_rate) best = k, best_rate = rate;
  return best;
}

}  // namespace trimtab
