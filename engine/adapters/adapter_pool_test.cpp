// The pool of adapters: layout, pins, evictions, KV pages beside them, loads that fail, threads.
#include "engine/adapters/adapter_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "engine/adapters/adapter_cases.h"

namespace trimtab {
namespace {

const std::vector<std::string> kAll = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

// "a", "b", ... of these ranks on a tiny base.
class Adapters {
 public:
  explicit Adapters(const std::vector<int64_t>& ranks, const std::vector<std::string>& targets = {"q_proj", "down_proj"}, const std::string& dtype = "F32") {
    for (const int64_t rank : ranks) add(std::string(1, static_cast<char>('a' + names_.size())), lora_of(rank, targets), dtype);
  }
  std::filesystem::path add(const std::string& name, const LoraConfig& lora, const std::string& dtype = "F32") {
    std::filesystem::remove_all(root_.path() / name);
    write_adapter(root_.path() / name, lora, base_, draws_, dtype);
    names_.insert(name);
    return root_.path() / name;
  }
  // A new one, that lives as long as this.
  AdapterStore& store(int64_t host_bytes = 0) {
    return stores_.emplace_back(base_, AdapterBase{kBaseName, ""}, adapters_in(root_.path()), host_bytes);
  }
  std::vector<std::string> names() const { return {names_.begin(), names_.end()}; }
  const std::filesystem::path& root() const { return root_.path(); }
  const TransformerConfig& base() const { return base_; }

 private:
  const TemporaryFolder root_;
  const TransformerConfig base_ = tiny("llama");
  Draws draws_{test_seed(), Stream::kTest, 43};
  std::set<std::string> names_;
  std::list<AdapterStore> stores_;
};

AdapterPoolOptions options(int64_t bytes, int64_t page_bytes = 64) { return {.bytes = bytes, .page_bytes = page_bytes}; }

// Bytes that an adapter takes in a pool where there is room enough.
int64_t bytes_of(Adapters& adapters, const std::string& name, int64_t page_bytes = 64) {
  AdapterPool pool(adapters.store(), options(1 << 20, page_bytes));
  return pool.acquire(name).weights().bytes;
}

std::vector<std::string> names_of(const AdapterPool& pool) {
  std::vector<std::string> out;
  for (const ResidentAdapter& a : pool.resident()) out.push_back(a.name);
  return out;
}
using Names = std::vector<std::string>;

float number_at(const LoraAdapter& m, const void* matrix, int64_t i) {
  if (m.numbers == LoraNumbers::kFloat) return static_cast<const float*>(matrix)[i];
  return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(matrix)[i]} << 16);
}

// What of the pool's matrices is not what the store reads, or nothing.
std::string difference(const AdapterWeights& got, const HostAdapter& want, bool exact = true) {
  if (got.name != want.name || got.rank != want.config.rank) return "another adapter";
  int64_t adapted = 0;
  for (const LoraAdapter& m : got.matrices) adapted += m.rank > 0;
  if (adapted != static_cast<int64_t>(want.matrices.size())) return fmt::format("{} adapted layers", adapted);
  for (const HostMatrices& m : want.matrices) {
    const LoraAdapter& at = got.at(m.layer, m.target);
    if (at.rank != got.rank || at.scale != static_cast<float>(want.config.scale())) return "rank or scale";
    const auto is = [&](float x, float y) { return exact ? x == y : std::abs(x - y) <= 0x1p-8f * std::abs(y); };
    const std::vector<float> a = numbers_of(m.a), b = numbers_of(m.b);
    for (int64_t r = 0; r < got.rank; ++r) {
      for (int64_t i = 0; i < m.in; ++i)
        if (!is(number_at(at, at.a, i * got.rank + r), a[r * m.in + i])) return fmt::format("A[{}][{}] of layer {}", i, r, m.layer);
      for (int64_t o = 0; o < m.out; ++o)
        if (!is(number_at(at, at.b, r * m.out + o), b[o * got.rank + r])) return fmt::format("B[{}][{}] of layer {}", r, o, m.layer);
    }
  }
  return "";
}

// Bytes of an adapter's matrices, to see whether anything has changed.
std::vector<float> all_numbers(const AdapterLease& lease, const HostAdapter& shape) {
  std::vector<float> out;
  for (const HostMatrices& m : shape.matrices) {
    const LoraAdapter& at = lease.weights().at(m.layer, m.target);
    for (int64_t i = 0; i < m.in * at.rank; ++i) out.push_back(number_at(at, at.a, i));
    for (int64_t i = 0; i < m.out * at.rank; ++i) out.push_back(number_at(at, at.b, i));
  }
  return out;
}

TEST(AdapterPool, KernelsComputeWhatLoraSays) {
  Draws draws(test_seed(), Stream::kTest, 44);
  for (const char* dtype : {"F32", "F16", "BF16"})
    for (const int64_t rank : {1, 3, 8, 24}) {
      Adapters adapters({rank}, kAll, dtype);
      AdapterStore& store = adapters.store();
      AdapterPool pool(store, options(1 << 20, 64 << draws.below(6)));
      const auto adapter = store.read("a").adapter;
      const AdapterLease lease = pool.acquire("a");
      EXPECT_EQ(difference(lease.weights(), *adapter), "");
      for (const HostMatrices& m : adapter->matrices) {
        std::vector<float> x(m.in), v(rank), y(m.out);
        for (float& number : x) number = draws.normal();
        const int32_t first = 0;
        const LoraRows rows{&lease.weights().at(m.layer, m.target), 1, &first, nullptr, 0, 0, 1};
        lora_shrink({rows, m.in, x.data(), m.in, v.data(), rank});
        lora_expand({rows, m.out, v.data(), rank, y.data(), m.out, 0, lora_panels(m.out)});
        const std::vector<float> a = numbers_of(m.a), b = numbers_of(m.b);
        for (int64_t o = 0; o < m.out; ++o) {   // y = scale B (A x)
          double want = 0, size = 0;
          for (int64_t r = 0; r < rank; ++r)
            for (int64_t i = 0; i < m.in; ++i) {
              const double term = adapter->config.scale() * b[o * rank + r] * a[r * m.in + i] * x[i];
              want += term, size += std::abs(term);
            }
          ASSERT_NEAR(y[o], want, 1e-5 * size + 1e-12) << "layer " << m.layer;
        }
      }
    }
}

TEST(AdapterPool, Bfloat16TakesHalfTheRoomAndRounds) {
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    Adapters adapters({8}, kAll, dtype);
    AdapterPoolOptions halves = options(1 << 20);
    halves.numbers = "bf16";
    const int64_t whole = bytes_of(adapters, "a");
    AdapterStore& store = adapters.store();
    AdapterPool pool(store, halves);
    const AdapterLease lease = pool.acquire("a");
    EXPECT_EQ(lease.weights().bytes, whole / 2);
    EXPECT_EQ(lease.weights().at(1, LoraTarget::kUp).numbers, LoraNumbers::kBfloat16);
    EXPECT_EQ(difference(lease.weights(), *store.read("a").adapter, dtype == std::string("BF16")), "");
  }
  Adapters adapters({3});
  with_number(3.4e38f)(adapters.root() / "a");
  AdapterPoolOptions halves = options(1 << 20);
  halves.numbers = "bf16";
  AdapterPool pool(adapters.store(), halves);
  EXPECT_EQ(lacks(said<DataError>([&] { pool.acquire("a"); }), {"'a'", "bf16", "f32"}), "");
}

TEST(AdapterPool, LayersThatAreNotAdaptedHaveRankZero) {
  Adapters adapters({3}, {"layers.1.self_attn.v_proj"});
  AdapterPool pool(adapters.store(), options(1 << 20));
  const AdapterLease lease = pool.acquire("a");
  ASSERT_EQ(lease.weights().matrices.size(), 2u * kLoraTargets);
  for (int64_t layer = 0; layer < 2; ++layer)
    for (int t = 0; t < kLoraTargets; ++t) {
      const auto target = static_cast<LoraTarget>(t);
      EXPECT_EQ(lease.weights().at(layer, target).rank, layer == 1 && target == LoraTarget::kValue ? 3 : 0);
    }
}

TEST(AdapterPool, TheLeastRecentlyUsedOrTheFirstLeaves) {
  for (const char* eviction : {"lru", "fifo"}) {
    Adapters adapters({3, 3, 3, 3});
    AdapterPoolOptions o = options(3 * bytes_of(adapters, "a"));
    o.eviction = eviction;
    AdapterPool pool(adapters.store(), o);
    for (const char* name : {"a", "b", "c", "a", "d"}) pool.acquire(name);
    EXPECT_EQ(names_of(pool), eviction == std::string("lru") ? (Names{"a", "c", "d"}) : (Names{"b", "c", "d"}));
    const AdapterPoolStatistics s = pool.statistics();
    EXPECT_EQ(s.hits, 1);
    EXPECT_EQ(s.misses, 4);
    EXPECT_EQ(s.evictions, 1);
    EXPECT_EQ(s.failures, 0);
    EXPECT_EQ(s.bytes_paged, 4 * o.bytes / 3);
    EXPECT_EQ(pool.bytes_in_use(), o.bytes);
  }
  Adapters adapters({3});
  AdapterPoolOptions wrong = options(1 << 20);
  wrong.eviction = "random";
  EXPECT_EQ(lacks(said<ConfigError>([&] { AdapterPool(adapters.store(), wrong); }), {"random", "lru"}), "");
  wrong = options(1 << 20), wrong.numbers = "f8";
  EXPECT_EQ(lacks(said<ConfigError>([&] { AdapterPool(adapters.store(), wrong); }), {"f8", "bf16"}), "");
}

TEST(AdapterPool, APolicyOfOnesOwnChooses) {
  struct Largest final : EvictionPolicy {
    size_t victim(std::span<const EvictionCandidate> candidates) const override {
      return static_cast<size_t>(std::ranges::max_element(candidates, {}, &EvictionCandidate::bytes) - candidates.begin());
    }
  };
  Adapters adapters({3, 9, 3, 3});
  AdapterPool pool(adapters.store(), options(2 * bytes_of(adapters, "a") + bytes_of(adapters, "b")), std::make_unique<Largest>());
  for (const char* name : {"a", "b", "c", "d"}) pool.acquire(name);
  EXPECT_EQ(names_of(pool), (Names{"a", "c", "d"}));
}

TEST(AdapterPool, WhatIsPinnedStays) {
  Adapters adapters({3, 3, 3});
  const int64_t one = bytes_of(adapters, "a");
  AdapterPool pool(adapters.store(), options(2 * one));
  std::optional<AdapterLease> a = pool.acquire("a"), again = pool.acquire("a"), b = pool.acquire("b");
  const AdapterWeights* const where = &a->weights();
  EXPECT_EQ(lacks(said<RunError>([&] { pool.acquire("c"); }), {"'c'", fmt::format("{} pages", 2 * one / 64), "2 adapters in use", "more bytes"}), "");
  EXPECT_FALSE(pool.try_acquire("c"));
  EXPECT_EQ(names_of(pool), (Names{"a", "b"}));
  EXPECT_EQ(pool.statistics().evictions, 0);
  EXPECT_EQ(pool.resident()[0].pins, 2);
  a.reset();
  EXPECT_FALSE(pool.try_acquire("c"));   // one lease of it is left
  AdapterLease moved = std::move(*again);
  again.reset();
  EXPECT_FALSE(pool.try_acquire("c"));
  EXPECT_EQ(&moved.weights(), where);
  moved = std::move(*b), b.reset();      // assigning lets go what was held
  EXPECT_TRUE(pool.try_acquire("c"));
  EXPECT_EQ(names_of(pool), (Names{"b", "c"}));
}

TEST(AdapterPool, APoolSmallerThanAnAdapterSaysSo) {
  Adapters adapters({3, 20});
  const int64_t large = bytes_of(adapters, "b");
  AdapterPool pool(adapters.store(), options(large - 64));
  const AdapterLease a = pool.acquire("a");
  EXPECT_EQ(lacks(said<ConfigError>([&] { pool.acquire("b"); }), {"'b'", "rank 20", fmt::format("{}", large), fmt::format("{}", large - 64), "more bytes", "bf16"}), "");
  EXPECT_EQ(names_of(pool), Names{"a"});
}

// Names, pins and numbers of all that is resident.
std::map<std::string, std::vector<float>> contents(AdapterPool& pool, AdapterStore& store) {
  std::map<std::string, std::vector<float>> out;
  for (const ResidentAdapter& a : pool.resident()) out[a.name] = all_numbers(pool.acquire(a.name), *store.read(a.name).adapter);
  return out;
}

TEST(AdapterPool, AFailedLoadChangesNothing) {
  Adapters adapters({3, 5});
  adapters.add("bad", lora_of(3));
  const int64_t both = bytes_of(adapters, "a") + bytes_of(adapters, "b");   // full: one that came in would push another out
  for (const BadFolder& bad : bad_folders()) {
    SCOPED_TRACE(bad.what);
    AdapterStore& store = adapters.store(1 << 20);
    AdapterPool pool(store, options(both));
    const AdapterLease pinned = pool.acquire("a");
    pool.acquire("b");
    const auto before = contents(pool, store);
    bad.spoil(adapters.root() / "bad");
    for (int again = 0; again < 2; ++again) {
      EXPECT_EQ(lacks(said<DataError>([&] { pool.acquire("bad"); }), bad.words), "");
      EXPECT_EQ(lacks(said<DataError>([&] { pool.try_acquire("bad"); }), bad.words), "");
      pool.prefetch("bad");
      pool.finish_prefetches();
      EXPECT_EQ(pool.statistics().evictions, 0);
      EXPECT_EQ(pool.statistics().bytes_paged, both);
      EXPECT_EQ(pool.bytes_in_use(), both);
      EXPECT_EQ(contents(pool, store), before);
    }
    EXPECT_EQ(pool.statistics().failures, 6);
    adapters.add("bad", lora_of(3));
    pool.acquire("bad");   // once it is right it comes in
    EXPECT_EQ(names_of(pool), (Names{"a", "bad"}));
  }
}

TEST(AdapterPool, UnknownNamesAreRefused) {
  Adapters adapters({3, 3});
  AdapterPool pool(adapters.store(), options(1 << 20));
  EXPECT_EQ(lacks(said<DataError>([&] { pool.acquire("z"); }), {"'z'", "a, b"}), "");
  EXPECT_EQ(lacks(said<DataError>([&] { pool.try_acquire("z"); }), {"'z'"}), "");
  EXPECT_EQ(lacks(said<DataError>([&] { pool.prefetch("z"); }), {"'z'"}), "");
}

TEST(AdapterPool, AdaptersLeaveForCaches) {
  Adapters adapters({3, 3, 3});
  const int64_t one = bytes_of(adapters, "a"), pages = one / 64;
  AdapterStore& store = adapters.store();
  AdapterPool pool(store, options(3 * one));
  const AdapterLease a = pool.acquire("a");
  for (const char* name : {"b", "c"}) pool.acquire(name);
  std::optional<PageLease> cache = pool.take_pages(pages);
  EXPECT_EQ(names_of(pool), (Names{"a", "c"}));
  EXPECT_EQ(cache->bytes().size(), static_cast<size_t>(one));
  std::ranges::fill(cache->bytes(), uint8_t{255});
  EXPECT_FALSE(pool.try_take_pages(3 * pages));   // a stays, and c does not leave in vain
  EXPECT_EQ(lacks(said<RunError>([&] { pool.take_pages(3 * pages); }), {fmt::format("{} pages", 3 * pages), "1 adapters in use", "KV"}), "");
  EXPECT_EQ(names_of(pool), (Names{"a", "c"}));
  const PageLease second = pool.take_pages(pages);
  std::ranges::fill(second.bytes(), uint8_t{255});
  EXPECT_EQ(names_of(pool), Names{"a"});
  EXPECT_EQ(difference(a.weights(), *store.read("a").adapter), "");
  EXPECT_EQ(lacks(said<RunError>([&] { pool.acquire("b"); }), {"'b'", "KV", fmt::format("{}", 2 * pages)}), "");
  cache.reset();
  EXPECT_EQ(pool.acquire("b").weights().name, "b");
  EXPECT_EQ(pool.bytes_in_use(), 3 * one);
}

TEST(AdapterPool, AnAdapterUsesPagesThatAreScattered) {
  Adapters adapters({8}, kAll);
  AdapterStore& store = adapters.store();
  constexpr int64_t kPage = 1024;
  const auto adapter = store.read("a").adapter;
  AdapterPool pool(store, options(400 * kPage, kPage));
  std::vector<PageLease> caches;
  while (auto page = pool.try_take_pages(1)) caches.push_back(std::move(*page));
  ASSERT_EQ(caches.size(), 400u);
  std::vector<PageLease> kept;   // every fourth page: runs of three are free, and the adapter has about 18 kB
  for (size_t i = 0; i < caches.size(); ++i)
    if (i % 4 == 0) kept.push_back(std::move(caches[i]));
  caches.clear();
  const AdapterLease lease = pool.acquire("a");
  for (const PageLease& page : kept) std::ranges::fill(page.bytes(), uint8_t{255});
  EXPECT_EQ(difference(lease.weights(), *adapter), "");
  EXPECT_GT(lease.weights().bytes, 3 * kPage);
  EXPECT_EQ(pool.bytes_in_use(), lease.weights().bytes + 100 * kPage);
}

TEST(AdapterPool, PrefetchedAdaptersAreThere) {
  Adapters adapters({3, 3, 3});
  const int64_t one = bytes_of(adapters, "a");
  AdapterPool pool(adapters.store(), options(2 * one));
  for (const char* name : {"a", "b", "a"}) pool.prefetch(name);
  pool.finish_prefetches();
  EXPECT_EQ(names_of(pool), (Names{"a", "b"}));
  const AdapterLease a = pool.acquire("a"), b = pool.acquire("b");
  AdapterPoolStatistics s = pool.statistics();
  EXPECT_EQ(s.hits, 2);
  EXPECT_EQ(s.misses, 0);
  EXPECT_EQ(s.bytes_paged, 2 * one);
  pool.prefetch("c");   // no room: nothing happens
  pool.finish_prefetches();
  EXPECT_EQ(names_of(pool), (Names{"a", "b"}));
  EXPECT_EQ(pool.statistics().failures, 0);
}

TEST(AdapterPool, APrefetchNeverPushesOutWhatWasPrefetchedAndIsNotYetUsed) {
  Adapters adapters({3, 3, 3, 3});
  const int64_t one = bytes_of(adapters, "a");
  AdapterPool pool(adapters.store(), options(2 * one));
  const auto prefetched = [&](const Names& names) {
    for (const std::string& name : names) pool.prefetch(name);
    pool.finish_prefetches();
    return names_of(pool);
  };
  EXPECT_EQ(prefetched({"a", "b", "c", "d"}), (Names{"a", "b"}));
  pool.acquire("b");
  EXPECT_EQ(prefetched({"c", "d"}), (Names{"a", "c"}));   // b has been used
  EXPECT_EQ(prefetched({"a"}), (Names{"a", "c"}));
  pool.acquire("c"), pool.acquire("a");
  EXPECT_EQ(prefetched({"c", "b"}), (Names{"b", "c"}));   // c was there, the least recently used, and is asked for again
  pool.acquire("b");
  pool.acquire("a");                                      // b leaves before c, which is still to come
  EXPECT_EQ(names_of(pool), (Names{"a", "c"}));
  EXPECT_EQ(prefetched({"a"}), (Names{"a", "c"}));
  pool.acquire("d");                                      // but who needs one now gets room
  const PageLease all = pool.take_pages(2 * one / 64);
  EXPECT_EQ(names_of(pool), Names{});
}

TEST(AdapterPool, WithoutRoomNoTensorIsRead) {
  Adapters adapters({3, 3, 3, 60});
  AdapterStore& store = adapters.store(1 << 20);
  AdapterPool pool(store, options(2 * bytes_of(adapters, "a")));
  const AdapterLease a = pool.acquire("a"), b = pool.acquire("b");
  EXPECT_FALSE(pool.try_acquire("c"));
  EXPECT_THROW(pool.acquire("c"), RunError);
  pool.prefetch("c");
  pool.finish_prefetches();
  EXPECT_THROW(pool.acquire("d"), ConfigError);   // larger than the pool
  EXPECT_EQ(store.in_host_memory(), (Names{"a", "b"}));
  const AdapterPoolStatistics s = pool.statistics();
  EXPECT_EQ(s.misses, 2);
  EXPECT_EQ(s.paged_in(), 2);
}

TEST(AdapterPool, AnAdapterIsLoadedOnceHoweverManyWaitForIt) {
  for (int round = 0; round < 20; ++round) {
    Adapters adapters({3, 60}, kAll);
    AdapterPool pool(adapters.store(), options(1 << 20));
    pool.prefetch("b");
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) threads.emplace_back([&] { EXPECT_EQ(pool.acquire("b").weights().rank, 60); });
    for (std::thread& thread : threads) thread.join();
    pool.finish_prefetches();
    const AdapterPoolStatistics s = pool.statistics();
    EXPECT_EQ(s.hits + s.misses, 3);
    ASSERT_EQ(s.loads.size(), 1u);
    EXPECT_EQ(s.loads.at({60, AdapterMedium::kDisk}).count, 1);
  }
}

TEST(AdapterPool, APoolEndsWithPrefetchesUnderWay) {
  Adapters adapters({60, 60, 60}, kAll);
  for (int round = 0; round < 10; ++round) {
    AdapterPool pool(adapters.store(), options(1 << 20));
    for (const std::string& name : adapters.names()) pool.prefetch(name);
  }
}

TEST(AdapterPool, LatencyIsMeasuredByRankAndMedium) {
  Adapters adapters({3, 9});
  const int64_t large = bytes_of(adapters, "b");
  AdapterPool pool(adapters.store(1 << 20), options(large));   // room for one of them
  for (const char* name : {"a", "b", "a", "b", "a"}) pool.acquire(name);
  const AdapterPoolStatistics s = pool.statistics();
  ASSERT_EQ(s.loads.size(), 4u);
  EXPECT_EQ(s.paged_in(), 5);
  const std::map<std::pair<int64_t, AdapterMedium>, int64_t> counts = {
      {{3, AdapterMedium::kDisk}, 1}, {{9, AdapterMedium::kDisk}, 1}, {{3, AdapterMedium::kHost}, 2}, {{9, AdapterMedium::kHost}, 1}};
  for (const auto& [key, count] : counts) {
    const AdapterLoads& loads = s.loads.at(key);
    EXPECT_EQ(loads.count, count) << key.first << " " << name_of(key.second);
    EXPECT_GT(loads.mean_ms(), 0);
    EXPECT_GE(loads.longest_ms, loads.mean_ms());
  }
}

// Random sequences against a model that knows who holds what.
class Sequence {
 public:
  explicit Sequence(uint32_t round) : draws_(test_seed(), Stream::kTest, 45, round) {
    std::vector<int64_t> ranks;
    for (uint32_t n = 3 + draws_.below(4); ranks.size() < n;) ranks.push_back(1 + draws_.below(12));
    adapters_.emplace(ranks, draws_.below(2) == 0 ? kAll : Names{"q_proj", "down_proj"});
    store_ = &adapters_->store(draws_.below(2) == 0 ? 0 : 5000);
    AdapterStore& other = adapters_->store();
    int64_t bytes = 0;
    for (const std::string& name : adapters_->names()) fresh_[name] = other.read(name).adapter, bytes = std::max(bytes, bytes_of(*adapters_, name));
    AdapterPoolOptions o = options(bytes + draws_.below(static_cast<uint32_t>(3 * bytes)), 64 << draws_.below(3));
    o.bytes += o.page_bytes, o.eviction = draws_.below(2) == 0 ? "lru" : "fifo";
    pool_.emplace(*store_, o);
    budget_ = o.bytes;
  }
  void step() {
    const std::string name(1, static_cast<char>('a' + draws_.below(static_cast<uint32_t>(fresh_.size()))));
    const uint32_t what = draws_.below(10);
    if (what < 4) acquire(name);
    else if (what < 6) release(leases_);
    else if (what < 7) pool_->prefetch(name);
    else if (what < 8) pool_->finish_prefetches();
    else if (what < 9) take(1 + draws_.below(12));
    else release(caches_);
    check();
  }

 private:
  void acquire(const std::string& name) {
    auto lease = pool_->try_acquire(name);
    if (!lease) {
      EXPECT_TRUE(!leases_.empty() || !caches_.empty()) << "no room in a pool that nobody uses";
      return;
    }
    EXPECT_EQ(difference(lease->weights(), *fresh_.at(name)), "");
    leases_.push_back(std::move(*lease));
  }
  template <class Leases>
  void release(Leases& leases) {
    if (leases.empty()) return;
    std::swap(leases[draws_.below(static_cast<uint32_t>(leases.size()))], leases.back());
    leases.pop_back();
  }
  void take(int64_t pages) {
    auto cache = pool_->try_take_pages(pages);
    if (!cache) return;
    std::ranges::fill(cache->bytes(), static_cast<uint8_t>(caches_.size()));
    caches_.push_back(std::move(*cache));
  }
  void check() {
    std::map<std::string, int64_t> pins, there;
    int64_t bytes = 0;
    for (const AdapterLease& lease : leases_) {
      ++pins[lease.weights().name];
      EXPECT_EQ(difference(lease.weights(), *fresh_.at(lease.weights().name)), "") << "while it is pinned";
    }
    const bool still = draws_.below(2) == 0;   // else a prefetch goes on beside the next step
    if (still) pool_->finish_prefetches();
    for (const ResidentAdapter& a : pool_->resident()) bytes += a.bytes, there[a.name] = a.pins;
    for (const auto& [name, count] : pins) EXPECT_TRUE(there.contains(name)) << name << " is pinned and not there";
    for (const auto& [name, count] : there) EXPECT_EQ(count, pins[name]) << name;
    for (const PageLease& cache : caches_) bytes += static_cast<int64_t>(cache.bytes().size());
    if (still) {
      EXPECT_EQ(pool_->bytes_in_use(), bytes);
    }
    EXPECT_LE(pool_->bytes_in_use(), budget_);
  }

  Draws draws_;
  std::optional<Adapters> adapters_;
  AdapterStore* store_ = nullptr;
  std::map<std::string, std::shared_ptr<const HostAdapter>> fresh_;
  std::optional<AdapterPool> pool_;
  std::vector<AdapterLease> leases_;
  std::vector<PageLease> caches_;
  int64_t budget_ = 0;
};

TEST(AdapterPool, RandomSequencesKeepToTheRules) {
  for (uint32_t round = 0; round < 15; ++round) {
    SCOPED_TRACE(round);
    Sequence sequence(round);
    for (int step = 0; step < 120 && !testing::Test::HasFailure(); ++step) sequence.step();
  }
}

TEST(AdapterPool, ThreadsShareIt) {
  Adapters adapters({3, 8, 5, 12, 3, 7});
  adapters.add("bad", lora_of(3));
  with_number(NAN)(adapters.root() / "bad");
  AdapterStore &store = adapters.store(3000), &other = adapters.store();
  std::map<std::string, std::shared_ptr<const HostAdapter>> fresh;
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) fresh[name] = other.read(name).adapter;
  AdapterPool pool(store, options(3 * bytes_of(adapters, "d")));
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Draws draws(test_seed(), Stream::kTest, 46, t);
      for (int i = 0; i < 150; ++i) {
        const std::string name(1, static_cast<char>('a' + draws.below(6)));
        std::optional<PageLease> cache;
        if (draws.below(3) == 0) cache = pool.try_take_pages(1 + draws.below(8));
        if (cache) std::ranges::fill(cache->bytes(), uint8_t{255});
        if (draws.below(4) == 0) pool.prefetch(name);
        if (draws.below(20) == 0) {
          EXPECT_NE(said<DataError>([&] { pool.acquire("bad"); }), "");
        }
        if (const auto lease = pool.try_acquire(name)) {
          EXPECT_EQ(difference(lease->weights(), *fresh.at(name)), "");
        }
        EXPECT_LE(pool.bytes_in_use(), pool.bytes());
      }
    });
  for (std::thread& thread : threads) thread.join();
  pool.finish_prefetches();
  int64_t bytes = 0;
  for (const ResidentAdapter& a : pool.resident()) {
    bytes += a.bytes;
    EXPECT_EQ(a.pins, 0) << a.name;
  }
  EXPECT_EQ(pool.bytes_in_use(), bytes);
}

}  // namespace
}  // namespace trimtab
