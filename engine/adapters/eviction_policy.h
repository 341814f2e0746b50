// Which adapter leaves a pool that needs room. Pinned ones are never among the candidates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace trimtab {

struct EvictionCandidate {
  std::string name;
  int64_t rank = 0, bytes = 0;       // in the pool
  int64_t entered = 0, used = 0;     // when it came, and was last acquired or let go (0: never), in events of the pool
  int64_t uses = 0;                  // acquisitions since it came
  double load_ms = 0;                // what bringing it took
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual size_t victim(std::span<const EvictionCandidate> candidates) const = 0;   // of at least one
};

class EvictLeastRecentlyUsed final : public EvictionPolicy {   // one never used counts from when it came
 public:
  size_t victim(std::span<const EvictionCandidate> candidates) const override;
};

class EvictFirstIn final : public EvictionPolicy {
 public:
  size_t victim(std::span<const EvictionCandidate> candidates) const override;
};

std::unique_ptr<EvictionPolicy> eviction_policy(const std::string& name);   // "lru", "fifo"; ConfigError

}  // namespace trimtab
