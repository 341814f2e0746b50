// Random schedules and what refusals say, for the tests of this folder.
#pragma once

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "domain/draft_schedule/draft_schedule.h"

namespace trimtab {

inline std::string refusal_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

inline AdaptiveDraft random_adaptive(Draws& draws, int64_t most, bool sglang_thresholds) {
  AdaptiveDraft a;
  std::set<int64_t> steps;
  const size_t wanted = std::min<size_t>(2 + draws.below(4), static_cast<size_t>(most) + 1);
  while (steps.size() < wanted) steps.insert(draws.below(static_cast<uint32_t>(most) + 1));
  double at_least = 0;
  for (const int64_t k : steps) {
    const double ceiling = a.tiers.empty() ? 0 : static_cast<double>(std::max<int64_t>(1, a.tiers.back().k));
    if (!a.tiers.empty())
      at_least =
          sglang_thresholds ? ceiling - 0.5 : std::max(at_least, ceiling * (1.0 / (1 + draws.below(4))));
    a.tiers.push_back({a.tiers.empty() ? 0.0 : at_least, k});
  }
  a.ema = 1.0 / (1 + draws.below(20));
  a.warm_up = draws.below(30);
  a.interval = 1 + draws.below(20);
  a.rise_margin = draws.uniform(-1.0f, 1.0f);
  a.drop_margin = draws.below(3) == 0 ? 0.0 : draws.uniform(-1.0f, 1.0f);
  return a;
}

inline DraftSchedule random_schedule(Draws& draws, bool sglang_thresholds = false) {
  const auto flip = [&] { return draws.below(2) == 1; };
  DraftSchedule s;
  if (flip()) s.name = "by \"batch\" \\ \u00e9";
  if (flip()) s.created_by = "a test";
  s.models = {
      "00c0ffee" + std::string(draws.below(3) * 12, 'a'), "0123456789abcdef", 1 + draws.below(200000), {}};
  if (draws.below(4) != 0) s.models.draft_source = flip() ? "models/draft: #1 \"\u00e9\" \\n" : "true";
  s.most = 1 + draws.below(12);
  int64_t next = 1;
  const bool with_tiers = flip(), first_is_most = flip();
  for (uint32_t i = 0, count = 1 + draws.below(8); i < count; ++i) {
    DraftEntry e;
    e.first_batch = next;
    e.last_batch = next + (flip() ? 0 : draws.below(100));
    next = e.last_batch + 1;
    e.k = i == 0 && first_is_most ? s.most : draws.below(static_cast<uint32_t>(s.most) + 1);
    if (flip()) e.tokens_per_s = 1e4 / (1 + draws.below(1000));
    if (with_tiers && flip()) {
      e.adaptive = random_adaptive(draws, s.most, sglang_thresholds);
      e.k = e.adaptive->tiers[draws.below(static_cast<uint32_t>(e.adaptive->tiers.size()))].k;
    }
    s.entries.push_back(e);
  }
  return s;
}

inline DraftEntry plain_entry(int64_t first, int64_t last, int64_t k) {
  return {first, last, k, std::nullopt, std::nullopt};
}

inline DraftSchedule schedule_of(std::vector<DraftEntry> entries, int64_t most) {
  DraftSchedule s;
  s.models = {"0123456789abcdef", "fedcba9876543210", 49152, "draft-model"};
  s.most = most;
  s.entries = std::move(entries);
  return s;
}

}  // namespace trimtab
