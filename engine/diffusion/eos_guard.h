// The guard against early endings, for whoever commits picks: the generator, made-up answers, figures on recorded passes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/diffusion/commit_control.h"

namespace trimtab {

// Takes away endings that would stand right of a mask once the other picks are committed, unless an ending is left of them; the others keep
// their order. How many were taken away.
inline int64_t refuse_early_endings(const CommitState& s, std::vector<int32_t>& picks) {
  std::vector<char> open(s.length);
  for (int64_t p = 0; p < s.length; ++p) open[p] = s.tokens[p] < 0;
  std::vector<int32_t> endings;
  for (const int32_t i : picks) {
    if (s.masked[i].ends) endings.push_back(i);
    else open[s.masked[i].position] = 0;
  }
  std::sort(endings.begin(), endings.end());
  int64_t first = 0, refused = 0;   // first: mask that stays
  bool ended = false;
  for (const int32_t i : endings) {
    const MaskedPosition& m = s.masked[i];
    while (first < s.length && !open[first]) ++first;
    if (m.waits && m.position > first && !ended) {
      std::erase(picks, i), ++refused;
    } else {
      open[m.position] = 0, ended = true;
    }
  }
  return refused;
}

// What is committed where nothing was picked: the index into s.masked of the largest confidence, endings that wait last, the leftmost of
// equals; -1 where nothing is masked.
inline int32_t most_confident(const CommitState& s) {
  const auto rank = [](const MaskedPosition& m) { return std::pair(!m.waits, m.confidence); };
  const auto best = std::max_element(s.masked.begin(), s.masked.end(), [&](const MaskedPosition& a, const MaskedPosition& b) { return rank(a) < rank(b); });
  return s.masked.empty() ? -1 : static_cast<int32_t>(best - s.masked.begin());
}

}  // namespace trimtab
