#include "envs/adapter_route/eviction.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

// The least goes.
double worth(Eviction rule, const PagingState& s, int64_t adapter, std::span<const int32_t> future) {
  const PagingState::Adapter& a = s.adapters[adapter];
  switch (rule) {
    case Eviction::kLru: return static_cast<double>(a.last_used);
    case Eviction::kLfu: return static_cast<double>(a.uses);
    case Eviction::kLfuAged: return a.aged_now(s.clock);
    case Eviction::kGreedyDual: return a.credit;
    case Eviction::kFifo: return static_cast<double>(a.loaded);
    case Eviction::kBelady: return -static_cast<double>(std::find(future.begin(), future.end(), adapter) - future.begin());
  }
  return 0;
}

}  // namespace

std::vector<std::string> eviction_names() { return {"lru", "lfu", "lfu_aged", "greedy_dual", "fifo", "belady"}; }

Eviction eviction_of(const std::string& name) {
  const std::vector<std::string> names = eviction_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) throw ConfigError(fmt::format("there is no eviction '{}': one of lru, lfu, lfu_aged, greedy_dual, fifo, belady", name));
  return static_cast<Eviction>(found - names.begin());
}

int64_t victim(Eviction rule, const PagingState& s, std::span<const uint8_t> keep, std::span<const int32_t> future) {
  int64_t out = -1;
  double least = 0;
  for (int64_t a = 0; a < std::ssize(s.adapters); ++a) {
    if (!s.adapters[a].resident || (!keep.empty() && keep[a])) continue;
    if (const double w = worth(rule, s, a, future); out < 0 || w < least) out = a, least = w;
  }
  return out;
}

}  // namespace trimtab
