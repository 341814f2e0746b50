// What learned controllers of token commitment do with a probability for each position.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/diffusion/commit_control.h"

namespace trimtab {

// chance[i] is of state.masked[i]; those of masked positions behind its end stay masked. All at or above the threshold, else the best one: the likeliest,
// endings that wait last, the leftmost of equals.
inline void picks_above(const CommitState& state, std::span<const float> chance, double threshold, std::vector<int32_t>& picks) {
  picks.clear();
  const auto rank = [&](int32_t i) { return std::pair(!state.masked[i].waits, chance[i]); };
  int32_t best = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(chance.size()); ++i) {
    if (chance[i] >= threshold) picks.push_back(i);
    if (rank(i) > rank(best)) best = i;
  }
  if (picks.empty()) picks.push_back(best);
}

}  // namespace trimtab
