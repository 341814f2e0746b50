#include "engine/adapters/adapter_pool.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>
#include <ranges>

#include "core/error.h"

namespace trimtab {
namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

LoraNumbers numbers_of(const std::string& name) {
  if (name == "f32") return LoraNumbers::kFloat;
  if (name == "bf16") return LoraNumbers::kBfloat16;
  throw ConfigError(fmt::format("numbers '{}' are unknown: give f32 or bf16", name));
}

int64_t width_of(LoraNumbers numbers) { return numbers == LoraNumbers::kFloat ? 4 : 2; }

uint16_t to_bfloat16(float x) {   // to nearest, ties to even; x is finite
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Bytes of a matrix, so that the next one is aligned.
int64_t aligned_bytes(int64_t numbers, LoraNumbers of) {
  return (numbers * width_of(of) + PagePool::kAlignment - 1) / PagePool::kAlignment * PagePool::kAlignment;
}
int64_t pair_bytes(int64_t in, int64_t out, int64_t rank, LoraNumbers of) { return aligned_bytes(in * rank, of) + aligned_bytes(rank * out, of); }

std::vector<int64_t> pairs_of(const AdapterShape& shape, LoraNumbers numbers) {
  std::vector<int64_t> out;
  for (const auto& [in, to] : shape.layers) out.push_back(pair_bytes(in, to, shape.rank, numbers));
  return out;
}

std::vector<int64_t> pairs_of(const HostAdapter& adapter, LoraNumbers numbers) {
  std::vector<int64_t> out;
  for (const HostMatrices& m : adapter.matrices) out.push_back(pair_bytes(m.in, m.out, adapter.config.rank, numbers));
  return out;
}

// [rows, columns] into [columns, rows].
void put_transposed(const Tensor& from, int64_t rows, int64_t columns, LoraNumbers numbers, uint8_t* to) {
  with_numbers(from, [&](auto number) {
    const auto put = [&](auto* out, auto rounded) {
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = 0; r < rows; ++r) *out++ = rounded(number(r * columns + c));
    };
    if (numbers == LoraNumbers::kFloat) put(reinterpret_cast<float*>(to), [](float x) { return x; });
    else put(reinterpret_cast<uint16_t*>(to), to_bfloat16);
  });
}

// Pairs of matrices of so many bytes, in order, into as few runs as the free pages allow, each pair whole in one. Nothing is taken when they don't fit.
std::optional<std::vector<PageRun>> take_runs(PageMap& map, const std::vector<int64_t>& pairs, const PagePool& pool) {
  PageMap left = map;
  std::vector<PageRun> runs;
  for (size_t i = 0; i < pairs.size();) {
    const int64_t room = left.largest_run() * pool.page_bytes();
    int64_t bytes = 0;
    const size_t first = i;
    for (; i < pairs.size() && bytes + pairs[i] <= room; ++i) bytes += pairs[i];
    if (i == first) return {};
    runs.push_back(*left.take(pool.pages_of(bytes)));
  }
  map = std::move(left);
  return runs;
}

int64_t pages_of(const PooledAdapter& adapter) {
  int64_t pages = 0;
  for (const PageRun& run : adapter.runs) pages += run.pages;
  return pages;
}

}  // namespace

int64_t AdapterPoolStatistics::paged_in() const {
  int64_t count = 0;
  for (const auto& [of, those] : loads) count += those.count;
  return count;
}

void AdapterPoolOptions::describe(Fields& f) {
  f.integer("bytes", bytes, {.low = 64, .unit = "bytes", .doc = "of the pool, shared by adapters and KV pages"});
  f.integer("page_bytes", page_bytes, {.low = 64, .unit = "bytes", .doc = "of a page, a multiple of 64"});
  f.choice("numbers", numbers, {"f32", "bf16"}, "what adapters are kept in; bf16 takes half the room and rounds f32 and f16");
  f.choice("eviction", eviction, {"lru", "fifo"}, "which adapter leaves first: the least recently used, or the first that came");
}

void AdapterLease::Unpin::operator()(AdapterPool* pool) const {
  const std::lock_guard lock(pool->mutex_);
  --adapter->pins;
  adapter->used = ++pool->events_;
}

void PageLease::GiveBack::operator()(AdapterPool* pool) const {
  const std::lock_guard lock(pool->mutex_);
  pool->pool_.give_back(run);
  pool->leased_pages_ -= run.pages;
}

AdapterPool::AdapterPool(AdapterStore& store, const AdapterPoolOptions& options, std::unique_ptr<EvictionPolicy> policy)
    : store_(store), numbers_(numbers_of(options.numbers)), policy_(policy ? std::move(policy) : eviction_policy(options.eviction)),
      pool_(options.bytes, options.page_bytes) {
  loader_ = std::thread([this] { work(); });
}

AdapterPool::~AdapterPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  loader_.join();
}

AdapterLease AdapterPool::acquire(const std::string& name) {
  if (auto lease = try_acquire(name)) return std::move(*lease);
  const std::lock_guard lock(mutex_);
  throw RunError(fmt::format("no room for adapter '{}': {}; end requests, or give the pool more bytes", name, held()));
}

std::optional<AdapterLease> AdapterPool::try_acquire(const std::string& name) {
  store_.check_name(name);
  Lock lock(mutex_);
  std::shared_ptr<PooledAdapter> adapter;
  bool waited = false;
  for (auto it = adapters_.find(name); it != adapters_.end(); it = adapters_.find(name)) {
    adapter = it->second;
    ++adapter->pins;   // so that it does not leave before we have seen it
    waited = waited || adapter->state == PooledAdapter::State::kLoading;
    changed_.wait(lock, [&] { return adapter->state != PooledAdapter::State::kLoading; });
    if (adapter->state == PooledAdapter::State::kResident) break;
    adapter = nullptr;   // somebody else's load has failed: ours says why
  }
  const bool there = adapter && !waited;
  if (!adapter) adapter = load(name, 1, lock);
  if (!adapter) return {};
  ++(there ? statistics_.hits : statistics_.misses);
  adapter->used = ++events_, ++adapter->uses, adapter->awaited = false;
  if (std::erase(queue_, name) > 0) changed_.notify_all();   // its prefetch would come too late
  return AdapterLease(this, adapter.get());
}

// Brings an adapter in that is neither there nor on its way; null when there is no room. No pins: a prefetch.
std::shared_ptr<PooledAdapter> AdapterPool::load(const std::string& name, int64_t pins, Lock& lock) {
  const auto start = Clock::now();
  const auto adapter = std::make_shared<PooledAdapter>();
  adapter->pins = pins, adapter->awaited = pins == 0;
  adapters_.emplace(name, adapter);
  const auto end = [&](PooledAdapter::State state) {
    adapter->state = state;
    if (state == PooledAdapter::State::kFailed) adapters_.erase(name);
    changed_.notify_all();
  };
  try {
    if (!may_fit(name, pins == 0, lock)) return end(PooledAdapter::State::kFailed), nullptr;
    lock.unlock();
    const AdapterRead read = store_.read(name);
    check_numbers(*read.adapter);
    lock.lock();
    place(*read.adapter, *adapter, lock);
    if (adapter->runs.empty()) return end(PooledAdapter::State::kFailed), nullptr;
    adapter->load_ms = ms_since(start);
    AdapterLoads& loads = statistics_.loads[{read.adapter->config.rank, read.medium}];
    ++loads.count, loads.total_ms += adapter->load_ms, loads.longest_ms = std::max(loads.longest_ms, adapter->load_ms);
    statistics_.bytes_paged += adapter->weights.bytes;
    adapter->entered = ++events_;
    end(PooledAdapter::State::kResident);
    return adapter;
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    ++statistics_.failures;
    for (const PageRun& run : adapter->runs) pool_.give_back(run);
    end(PooledAdapter::State::kFailed);
    throw;
  }
}

// Whether there is room for what its configuration says of it; its tensors have not been read. What is being copied now may leave.
bool AdapterPool::may_fit(const std::string& name, bool prefetch, Lock& lock) {
  if (!pairs_.contains(name)) {
    lock.unlock();
    const AdapterShape shape = store_.shape(name);
    std::vector<int64_t> pairs = pairs_of(shape, numbers_);
    check_fits(name, shape.rank, pairs);
    lock.lock();
    pairs_.emplace(name, std::move(pairs));
  }
  const std::vector<int64_t>& pairs = pairs_.at(name);
  PageMap map = pool_.map();
  std::vector<std::string> victims;
  return someone_is_filling() || find_room([&](PageMap& m) { return take_runs(m, pairs, pool_); }, prefetch, map, victims);
}

// Pages for the adapter, and its matrices in them; no runs when there is no room.
void AdapterPool::place(const HostAdapter& adapter, PooledAdapter& to, Lock& lock) {
  to.weights.name = adapter.name, to.weights.rank = adapter.config.rank;
  to.weights.matrices.resize(store_.base().num_layers * kLoraTargets);
  const std::vector<int64_t> pairs = pairs_of(adapter, numbers_);
  auto runs = make_room([&](PageMap& map) { return take_runs(map, pairs, pool_); }, to.pins == 0, lock);
  if (!runs) return;
  to.runs = std::move(*runs);
  to.weights.bytes = pages_of(to) * pool_.page_bytes();
  lock.unlock();
  fill(adapter, to);   // nobody else looks at these pages yet
  lock.lock();
}

void AdapterPool::fill(const HostAdapter& adapter, PooledAdapter& to) const {
  const int64_t rank = adapter.config.rank;
  size_t run = 0;
  int64_t at = 0;   // byte of the run
  for (const HostMatrices& m : adapter.matrices) {
    const int64_t bytes = pair_bytes(m.in, m.out, rank, numbers_);
    if (at + bytes > to.runs[run].pages * pool_.page_bytes()) ++run, at = 0;   // as take_runs has shared them out
    uint8_t *a = pool_.data(to.runs[run]) + at, *b = a + aligned_bytes(m.in * rank, numbers_);
    put_transposed(m.a, rank, m.in, numbers_, a);
    put_transposed(m.b, m.out, rank, numbers_, b);
    to.weights.matrices[m.layer * kLoraTargets + static_cast<int>(m.target)] = {a, b, static_cast<int32_t>(rank), static_cast<float>(adapter.config.scale()), numbers_};
    at += bytes;
  }
}

void AdapterPool::check_numbers(const HostAdapter& adapter) const {
  constexpr float kMostBfloat16 = 0x1.fep127f;
  if (numbers_ == LoraNumbers::kBfloat16 && adapter.largest > kMostBfloat16)
    throw DataError(fmt::format("adapter '{}': a number of size {:g} is more than bf16 holds: keep adapters in f32", adapter.name, adapter.largest));
}

void AdapterPool::check_fits(const std::string& name, int64_t rank, const std::vector<int64_t>& pairs) const {
  PageMap empty(pool_.pages());
  if (take_runs(empty, pairs, pool_)) return;
  const int64_t bytes = std::accumulate(pairs.begin(), pairs.end(), int64_t{0});
  throw ConfigError(fmt::format("adapter '{}' of rank {} takes {} bytes ({} pages), but the whole pool has {} ({} pages): give it more bytes{}", name,
                                rank, bytes, pool_.pages_of(bytes), pool_.bytes(), pool_.pages(),
                                numbers_ == LoraNumbers::kFloat ? ", or keep adapters in bf16" : ""));
}

// What take(map) takes of the free pages of `map` and those of `victims`, adapters that can leave.
template <class Take>
auto AdapterPool::find_room(Take&& take, bool prefetch, PageMap& map, std::vector<std::string>& victims) const -> decltype(take(map)) {
  auto taken = take(map);
  for (const bool awaited : {false, true}) {
    if (prefetch && awaited) break;
    std::vector<EvictionCandidate> candidates = unpinned(awaited);
    while (!taken && !candidates.empty()) {
      const size_t victim = policy_->victim(candidates);
      TT_CHECK_LT(victim, candidates.size());
      victims.push_back(candidates[victim].name);
      candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(victim));
      for (const PageRun& run : adapters_.at(victims.back())->runs) map.give_back(run);
      taken = take(map);
    }
  }
  return taken;
}

// What take(map) takes, from free pages or those of adapters that can leave. These leave only when it gets something.
template <class Take>
auto AdapterPool::make_room(Take&& take, bool prefetch, Lock& lock) -> decltype(take(std::declval<PageMap&>())) {
  for (;;) {
    PageMap map = pool_.map();
    std::vector<std::string> victims;
    auto taken = find_room(take, prefetch, map, victims);
    if (taken) {
      for (const std::string& name : victims) adapters_.erase(name);
      statistics_.evictions += static_cast<int64_t>(victims.size());
      pool_.become(std::move(map));
      return taken;
    }
    if (!someone_is_filling()) return {};
    changed_.wait(lock);   // what is being copied now may leave then
  }
}

std::vector<EvictionCandidate> AdapterPool::unpinned(bool awaited) const {
  std::vector<EvictionCandidate> out;
  for (const auto& [name, a] : adapters_)
    if (a->state == PooledAdapter::State::kResident && a->pins == 0 && a->awaited == awaited)
      out.push_back({name, a->weights.rank, a->weights.bytes, a->entered, a->used, a->uses, a->load_ms});
  return out;
}

bool AdapterPool::someone_is_filling() const {
  return std::ranges::any_of(adapters_, [](const auto& entry) { return entry.second->state == PooledAdapter::State::kLoading && !entry.second->runs.empty(); });
}

std::string AdapterPool::held() const {
  int64_t pinned = 0, pages = 0;
  for (const auto& [name, a] : adapters_)
    if (a->pins > 0 && !a->runs.empty()) ++pinned, pages += pages_of(*a);
  return fmt::format("of {} pages, {} adapters in use hold {}, and KV caches {}", pool_.pages(), pinned, pages, leased_pages_);
}

void AdapterPool::prefetch(const std::string& name) {
  store_.check_name(name);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(name);
  }
  changed_.notify_all();
}

void AdapterPool::finish_prefetches() {
  Lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty() && !prefetching_; });
}

void AdapterPool::work() {
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    const std::string name = queue_.front();
    queue_.pop_front();
    prefetching_ = true;
    try {
      if (const auto it = adapters_.find(name); it != adapters_.end()) it->second->awaited = true;
      else load(name, 0, lock);
    } catch (const std::exception&) {
      // The next acquire reads it again and says what is wrong.
    }
    prefetching_ = false;
    changed_.notify_all();
  }
}

PageLease AdapterPool::take_pages(int64_t pages) {
  if (auto lease = try_take_pages(pages)) return std::move(*lease);
  const std::lock_guard lock(mutex_);
  throw RunError(fmt::format("no {} pages behind one another: {}; end requests, or give the pool more bytes", pages, held()));
}

std::optional<PageLease> AdapterPool::try_take_pages(int64_t pages) {
  Lock lock(mutex_);
  const auto run = make_room([&](PageMap& map) { return map.take(pages); }, false, lock);
  if (!run) return {};
  leased_pages_ += pages;
  return PageLease(this, *run, {pool_.data(*run), static_cast<size_t>(pages * pool_.page_bytes())});
}

std::vector<ResidentAdapter> AdapterPool::resident() const {
  const std::lock_guard lock(mutex_);
  std::vector<ResidentAdapter> out;
  for (const auto& [name, a] : adapters_)
    if (a->state == PooledAdapter::State::kResident) out.push_back({name, a->weights.rank, a->weights.bytes, a->pins});
  return out;
}

AdapterPoolStatistics AdapterPool::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

int64_t AdapterPool::bytes_in_use() const {
  const std::lock_guard lock(mutex_);
  return pool_.bytes_in_use();
}

}  // namespace trimtab
