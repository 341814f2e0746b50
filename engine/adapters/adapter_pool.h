// Adapters in the memory that kernels read: one pool of pages for adapters and for KV caches, as in S-LoRA (Sheng et al., arXiv 2311.03285).
//
// An adapter's matrices are put into pages as kernels/lora takes them: A [in, rank] and B [rank, out], f32 or bf16, each pair aligned to 64
// bytes and whole in one run of pages; an adapter has one run, or several where none is long enough. Who generates with an adapter holds an
// AdapterLease: as long as there is one, the adapter is pinned, stays where it is and is not changed. The others leave, by an
// EvictionPolicy, when another adapter or a KV cache needs their pages, and only if that makes room enough: what fails to come in (a bad
// file, everything pinned) changes nothing in the pool. What was prefetched and has not been acquired since leaves after all others, and never
// for another prefetch: those asked for first are there first. Tensors are read only where there is room for them.
//
// Thread-safe. Reading and copying happen outside the lock: acquiring a resident adapter never waits for another's load. The pool must
// outlive its leases, the store its pool.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/options.h"
#include "engine/adapters/adapter_store.h"
#include "engine/adapters/adapter_weights.h"
#include "engine/adapters/eviction_policy.h"
#include "engine/adapters/page_pool.h"

namespace trimtab {

struct AdapterPoolOptions {
  int64_t bytes = int64_t{256} << 20, page_bytes = int64_t{16} << 10;
  std::string numbers = "f32", eviction = "lru";
  void describe(Fields& f);
};

struct AdapterLoads {   // of one rank from one medium: reading, checking, making room and copying
  int64_t count = 0;
  double total_ms = 0, longest_ms = 0;
  double mean_ms() const { return count > 0 ? total_ms / static_cast<double>(count) : 0; }
};

struct AdapterPoolStatistics {
  int64_t hits = 0, misses = 0;      // acquired adapters that were there, and that had to be waited for
  int64_t evictions = 0, failures = 0;   // adapters that left for others; loads that a bad file or too small a pool ended
  int64_t bytes_paged = 0;           // of pages that adapters were put into
  std::map<std::pair<int64_t, AdapterMedium>, AdapterLoads> loads;   // by rank and medium
  int64_t paged_in() const;          // adapters, each as often as it came in
};

struct ResidentAdapter {
  std::string name;
  int64_t rank = 0, bytes = 0, pins = 0;
};

class AdapterPool;

// An adapter in the pool.
struct PooledAdapter {
  enum class State { kLoading, kResident, kFailed };
  State state = State::kLoading;
  AdapterWeights weights;
  std::vector<PageRun> runs;
  int64_t pins = 0;   // leases, and who waits for one
  bool awaited = false;   // prefetched, and not acquired since
  int64_t entered = 0, used = 0, uses = 0;
  double load_ms = 0;
};

// An adapter in use.
class AdapterLease {
 public:
  const AdapterWeights& weights() const { return pool_.get_deleter().adapter->weights; }

 private:
  friend class AdapterPool;
  struct Unpin {
    PooledAdapter* adapter;
    void operator()(AdapterPool* pool) const;
  };
  AdapterLease(AdapterPool* pool, PooledAdapter* adapter) : pool_(pool, Unpin{adapter}) {}
  std::unique_ptr<AdapterPool, Unpin> pool_;
};

// Pages that something other than an adapter holds, such as keys and values. What they hold at first is not set.
class PageLease {
 public:
  std::span<uint8_t> bytes() const { return bytes_; }

 private:
  friend class AdapterPool;
  struct GiveBack {
    PageRun run;
    void operator()(AdapterPool* pool) const;
  };
  PageLease(AdapterPool* pool, PageRun run, std::span<uint8_t> bytes) : pool_(pool, GiveBack{run}), bytes_(bytes) {}
  std::unique_ptr<AdapterPool, GiveBack> pool_;
  std::span<uint8_t> bytes_;
};

class AdapterPool {
 public:
  // ConfigError. `policy` instead of the one that the options name.
  AdapterPool(AdapterStore& store, const AdapterPoolOptions& options, std::unique_ptr<EvictionPolicy> policy = nullptr);
  ~AdapterPool();   // waits for the load under way
  AdapterPool(const AdapterPool&) = delete;
  AdapterPool& operator=(const AdapterPool&) = delete;

  // Brings the adapter in where it is not there. DataError as AdapterStore's; ConfigError when the whole pool is too small for it; RunError
  // when what is pinned and what KV caches hold leave no room, of which try_acquire makes nothing.
  AdapterLease acquire(const std::string& name);
  std::optional<AdapterLease> try_acquire(const std::string& name);

  // Brings the adapter in on another thread, one after the other, and keeps it there for the acquire that follows, which says what is wrong if
  // it could not come. DataError for an unknown name. Without room nothing happens.
  void prefetch(const std::string& name);
  void finish_prefetches();   // waits until all asked for so far have come, or failed to

  // Pages behind one another; adapters that are not pinned leave for them. RunError when that is not enough.
  PageLease take_pages(int64_t pages);
  std::optional<PageLease> try_take_pages(int64_t pages);

  std::vector<ResidentAdapter> resident() const;   // by name
  AdapterPoolStatistics statistics() const;
  const AdapterStore& store() const { return store_; }
  int64_t bytes() const { return pool_.bytes(); }
  int64_t bytes_in_use() const;                    // of adapters and of leased pages
  int64_t page_bytes() const { return pool_.page_bytes(); }

 private:
  friend class AdapterLease;
  friend class PageLease;
  using Lock = std::unique_lock<std::mutex>;
  std::shared_ptr<PooledAdapter> load(const std::string& name, int64_t pins, Lock& lock);
  void place(const HostAdapter& adapter, PooledAdapter& to, Lock& lock);
  void fill(const HostAdapter& adapter, PooledAdapter& to) const;
  bool may_fit(const std::string& name, bool prefetch, Lock& lock);
  void check_fits(const std::string& name, int64_t rank, const std::vector<int64_t>& pairs) const;
  void check_numbers(const HostAdapter& adapter) const;
  template <class Take>
  auto find_room(Take&& take, bool prefetch, PageMap& map, std::vector<std::string>& victims) const -> decltype(take(map));
  template <class Take>
  auto make_room(Take&& take, bool prefetch, Lock& lock) -> decltype(take(std::declval<PageMap&>()));
  std::vector<EvictionCandidate> unpinned(bool awaited) const;
  bool someone_is_filling() const;
  std::string held() const;
  void work();

  AdapterStore& store_;
  const LoraNumbers numbers_;
  const std::unique_ptr<EvictionPolicy> policy_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;   // a load has ended, a prefetch was asked for or is done, stop
  PagePool pool_;
  std::map<std::string, std::shared_ptr<PooledAdapter>> adapters_;   // resident or loading
  std::map<std::string, std::vector<int64_t>> pairs_;                // bytes of the pairs of matrices of those asked for so far
  AdapterPoolStatistics statistics_;
  int64_t events_ = 0, leased_pages_ = 0;
  std::deque<std::string> queue_;     // of prefetches that have not begun
  bool prefetching_ = false, stop_ = false;
  std::thread loader_;
};

}  // namespace trimtab
