// Bandits: learners that choose one of K arms, see the reward of that arm alone, and learn while they run.
//
//   ucb1                    mean + sqrt(w ln t / n)                        Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002
//   discounted_ucb          the same over fading sums (drift)              Garivier & Moulines, ALT 2011
//   sliding_window_ucb      the same over the last rewards (drift)         Garivier & Moulines, ALT 2011
//   exp3                    exponential weights, no assumption on rewards  Auer et al., SIAM J. Comput. 32, 2002
//   thompson                a draw from each arm's Gaussian posterior      Agrawal & Goyal, J. ACM 64, 2017
//   epsilon_greedy          the best mean, at times any arm                Sutton & Barto, 2nd ed., 2.2
//   linucb                  theta.x + alpha sqrt(x A^-1 x), by arm         Li et al., WWW 2010, algorithm 1
//   linear_thompson         a draw from the posterior of theta.x, by arm   Agrawal & Goyal, ICML 2013, here with a theta by arm
//
// README.md has the formulas. Rewards have a stated range, which scales every bonus and step; one outside it counts as the range's end.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/archive.h"
#include "core/options.h"

namespace trimtab {

struct BanditShape {
  int64_t arms = 0;      // K >= 1
  int64_t context = 0;   // features a choice is told; 0: none. Only linucb and linear_thompson look at them, and they need 1 or more
};

// Each key names the learners that read it; the others leave it alone.
struct BanditOptions {
  double reward_low = 0, reward_high = 1;
  double bonus = 2;
  double discount = 0.995;
  int64_t window = 500;
  double epsilon = 0.1;
  double noise = 0.5;
  double prior_weight = 1;
  double alpha = 1;
  double ridge = 1;

  void describe(Fields& f);
  void validate() const;   // ConfigError on nonsense
};

class BanditPolicy {
 public:
  virtual ~BanditPolicy() = default;

  virtual const BanditShape& shape() const = 0;
  // The arm to try now, [0, K). `context` is [shape().context], finite (RunError). Random draws are keyed by seed and number of
  // choices so far, so equal histories make equal choices. Ties go to the lowest arm. O(K), linear ones O(K d^2).
  virtual int choose(std::span<const float> context) = 0;
  // The arm that looks best, without exploring: for frozen evaluation. Changes nothing.
  virtual int best(std::span<const float> context) const = 0;
  // What came of it. The linear learners and exp3 take it as the answer to the last choice (its context, its chance), at most one for
  // a choice; exp3 wants the very arm it chose, the others learn from an arm that somebody else chose as well.
  // RunError when `reward` is not finite. O(1), linear ones O(d^2), exp3 O(K).
  virtual void learn(int arm, double reward) = 0;
  // Back to the beginning: what follows repeats what a new one would do.
  virtual void reset() = 0;
  // All that was learned. Reading throws CheckpointError when the state is of another learner or shape; options and seed are not in it.
  virtual void serialise(Archive& archive) = 0;
};

using Bandit = BanditPolicy;   // the class itself has a name that no toy environment bears

std::vector<std::string> bandit_names();
// ConfigError for an unknown name, a shape that does not suit, or nonsense options.
std::unique_ptr<BanditPolicy> make_bandit(const std::string& name, const BanditShape& shape, const BanditOptions& options, uint64_t seed);

}  // namespace trimtab
