// The best that can be done with synthetic drafts (synthetic.h), exactly: the highest tokens per millisecond over all controllers that
// see a round's signs and the mood of the last committed token.
//
// A controller's rate is E[tokens] / E[time] over a round in the long run. For a given lambda the average of tokens - lambda time per
// round is maximised by relative value iteration over the mood at the round's start; inside a round by a dynamic programme over the
// sequences of signs, whose state is how likely it is that all drafted tokens are accepted and the last is easy or hard. What is rejected
// on the way is paid for where it happens. The lambda at which the average is 0 is the optimum (Dinkelbach 1967).
#pragma once

#include "envs/draft_length/cost.h"
#include "envs/draft_length/synthetic.h"

namespace trimtab {

struct SyntheticProblem {
  SyntheticDraftOptions drafts;
  DraftCost cost;
  int64_t batch = 1;
};

double optimal_rate(const SyntheticProblem& problem);                    // tokens per ms
double fixed_rate(const SyntheticProblem& problem, int64_t tokens);      // of the same number of drafts in every round
int64_t best_fixed(const SyntheticProblem& problem);

}  // namespace trimtab
