// Cache of converted drops. See trace_cache.h.
#include "domain/radio/trace_cache.h"

#include <cstdlib>
#include <string>

#include "core/error.h"

namespace trimtab::radio {
namespace {

size_t size_of(const DropGains& gains) { return gains.gain.size() * sizeof(float); }

size_t limit_from_environment() {
  constexpr size_t kDefaultMib = 1024;
  const char* text = std::getenv("TRIMTAB_TRACE_CACHE_MIB");
  if (text == nullptr || *text == '\0') return kDefaultMib << 20;
  char* end = nullptr;
  const long mib = std::strtol(text, &end, 10);
  if (*end != '\0' || mib < 0) {
    throw ConfigError(
        fmt::format("environment variable TRIMTAB_TRACE_CACHE_MIB is \"{}\"; give a number of MiB", text));
  }
  return static_cast<size_t>(mib) << 20;
}

}  // namespace

DropCache& DropCache::get() {
  static DropCache cache(limit_from_environment());
  return cache;
}

int64_t DropCache::new_source() {
  const std::lock_guard guard(mutex_);
  return ++last_source_;
}

size_t DropCache::bytes() const {
  const std::lock_guard guard(mutex_);
  return bytes_;
}

void DropCache::forget(int64_t source) {
  const std::lock_guard guard(mutex_);
  for (auto at = entries_.lower_bound({source, INT64_MIN});
       at != entries_.end() && at->first.first == source;) {
    bytes_ -= size_of(*at->second.gains);
    recent_.erase(at->second.place);
    at = entries_.erase(at);
  }
}

void DropCache::keep(const Key& key, std::shared_ptr<const DropGains> gains) {
  const size_t size = size_of(*gains);
  if (size > limit_bytes_) return;
  while (bytes_ + size > limit_bytes_) {
    const auto oldest = entries_.find(recent_.back());
    bytes_ -= size_of(*oldest->second.gains);
    entries_.erase(oldest);
    recent_.pop_back();
  }
  recent_.push_front(key);
  entries_[key] = {std::move(gains), recent_.begin()};
  bytes_ += size;
}

std::shared_ptr<const DropGains> DropCache::find(int64_t source, int64_t drop,
                                                 const std::function<DropGains()>& convert) {
  const Key key{source, drop};
  std::unique_lock guard(mutex_);
  for (;;) {
    if (const auto at = entries_.find(key); at != entries_.end()) {
      recent_.splice(recent_.begin(), recent_, at->second.place);
      return at->second.gains;
    }
    if (in_work_.insert(key).second) break;
    made_.wait(guard);
  }
  guard.unlock();
  std::shared_ptr<const DropGains> gains;
  std::exception_ptr error;
  try {
    gains = std::make_shared<const DropGains>(convert());
  } catch (...) {
    error = std::current_exception();  // a waiting thread tries for itself and meets the same error
  }
  guard.lock();
  in_work_.erase(key);
  if (!error) keep(key, gains);
  made_.notify_all();
  if (error) std::rethrow_exception(error);
  return gains;
}

}  // namespace trimtab::radio
