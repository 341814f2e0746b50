#include "engine/adapters/eviction_policy.h"

#include <algorithm>

#include "core/error.h"

namespace trimtab {
namespace {

template <class Key>
size_t least(std::span<const EvictionCandidate> candidates, Key key) {
  return static_cast<size_t>(std::ranges::min_element(candidates, {}, key) - candidates.begin());
}

}  // namespace

size_t EvictLeastRecentlyUsed::victim(std::span<const EvictionCandidate> candidates) const {
  return least(candidates, [](const EvictionCandidate& c) { return std::max(c.entered, c.used); });
}

size_t EvictFirstIn::victim(std::span<const EvictionCandidate> candidates) const { return least(candidates, &EvictionCandidate::entered); }

std::unique_ptr<EvictionPolicy> eviction_policy(const std::string& name) {
  if (name == "lru") return std::make_unique<EvictLeastRecentlyUsed>();
  if (name == "fifo") return std::make_unique<EvictFirstIn>();
  throw ConfigError(fmt::format("eviction '{}' is unknown: give lru or fifo", name));
}

}  // namespace trimtab
