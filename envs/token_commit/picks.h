// What rules and learned controllers of token commitment do with a number for each position.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/diffusion/commit_control.h"

namespace trimtab {

// Indices into state.masked by falling score(position), the leftmost of equals first. Endings that wait come last: those who count places would lose
// them to what the guard takes away.
template <class Score>
std::vector<int32_t> ranked(const CommitState& state, const Score& score) {
  std::vector<int32_t> out(state.masked.size());
  std::iota(out.begin(), out.end(), 0);
  const auto rank = [&](int32_t i) { return std::pair(!state.masked[i].waits, score(state.masked[i])); };
  std::stable_sort(out.begin(), out.end(), [&](int32_t a, int32_t b) { return rank(a) > rank(b); });
  return out;
}

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

// Of more picks than `most` (0: any number) the likeliest, of equals the most confident, endings that wait last.
inline void keep_most(const CommitState& state, std::span<const float> chance, int64_t most, std::vector<int32_t>& picks) {
  if (most == 0 || std::ssize(picks) <= most) return;
  const auto rank = [&](int32_t i) { return std::tuple(!state.masked[i].waits, chance[i], state.masked[i].confidence); };
  std::stable_sort(picks.begin(), picks.end(), [&](int32_t a, int32_t b) { return rank(a) > rank(b); });
  picks.resize(most);
}

// And the model's most confident ones where the plan of passes asks for more: of n masks and k passes left floor(n / k), so that decoding that is ahead of
// its plan adds nothing (TraceLock's union with the diffusion schedule's quota, arXiv 2605.24697). Nothing without a plan.
inline void add_planned(const CommitState& state, std::vector<int32_t>& picks) {
  if (state.window_passes == 0) return;
  const int64_t here = std::ssize(state.masked), left = std::max<int64_t>(1, state.window_passes - state.window_pass);
  const int64_t masks = state.window_masks < state.length ? here : std::count(state.tokens.begin(), state.tokens.end(), -1);   // of the block, or of the answer
  const int64_t quota = std::min(here, masks / left);
  const std::vector<int32_t> sure = ranked(state, [](const MaskedPosition& m) { return m.confidence; });
  for (int64_t i = 0; i < quota; ++i)
    if (std::find(picks.begin(), picks.end(), sure[i]) == picks.end()) picks.push_back(sure[i]);
}

}  // namespace trimtab
