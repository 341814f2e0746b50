// Drops that were converted lately, bounded in memory and shared by all sources of the process.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "domain/radio/trace.h"

namespace trimtab::radio {

// Least recently used drops go first. The bound is the environment variable TRIMTAB_TRACE_CACHE_MIB, 1024 by
// default; a drop larger than the bound is handed out but not kept.
class DropCache {
 public:
  static DropCache& get();
  explicit DropCache(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // A number no other source has.
  int64_t new_source();
  void forget(int64_t source);  // when a source goes
  // The drop, made by `convert` when it is not here. Threads that want the same drop wait for the one that
  // makes it.
  std::shared_ptr<const DropGains> find(int64_t source, int64_t drop,
                                        const std::function<DropGains()>& convert);
  size_t bytes() const;

 private:
  using Key = std::pair<int64_t, int64_t>;
  struct Entry {
    std::shared_ptr<const DropGains> gains;
    std::list<Key>::iterator place;  // in recent_
  };
  void keep(const Key& key, std::shared_ptr<const DropGains> gains);  // mutex_ is held

  const size_t limit_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable made_;
  std::map<Key, Entry> entries_;
  std::list<Key> recent_;  // the latest in front
  std::set<Key> in_work_;
  size_t bytes_ = 0;
  int64_t last_source_ = 0;
};

}  // namespace trimtab::radio
