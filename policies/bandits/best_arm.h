#pragma once

namespace trimtab {

// The arm with the largest score(arm), the lowest of equals; asked once for each arm, in order.
template <class Score>
int best_arm(int64_t arms, const Score& score) {
  int best = 0;
  double highest = score(0);
  for (int arm = 1; arm < arms; ++arm)
    if (const double s = score(arm); s > highest) best = arm, highest = s;
  return best;
}

}  // namespace trimtab
