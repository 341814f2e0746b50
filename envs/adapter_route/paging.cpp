#include "envs/adapter_route/paging.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace trimtab {

double PagingState::Adapter::aged_now(int64_t clock) const { return aged * std::exp2(-static_cast<double>(clock - last_used) / kHalfLife); }

void PagingOptions::describe(Fields& f) {
  f.integer("slots", slots, {.low = 1, .high = 1024, .doc = "adapters that may be resident"});
  f.number("budget_mb", budget_mb, {.low = 0, .high = 1e6, .unit = "MB", .doc = "room in bytes instead of slots; 0: slots"});
  f.integers("ranks", ranks, {.low = 1, .high = 4096, .doc = "of each adapter; none: those that the tables tell, else 8, 16, 32 and 64 in turn"});
  f.integer("parameters_per_rank", parameters_per_rank, {.low = 1, .high = 1e12, .doc = "numbers in an adapter of rank 1"});
  f.integer("bytes_per_number", bytes_per_number, {.low = 1, .high = 8, .unit = "bytes", .doc = "of an adapter"});
  f.choice("medium", medium, {"host", "disk", "custom"}, "where adapters are loaded from: host memory over PCIe (25 GB/s), disk (3 GB/s), or as the next two keys say");
  f.number("bandwidth_gb_s", bandwidth_gb_s, {.low = 1e-6, .high = 1e6, .unit = "GB/s", .doc = "custom: of a load"});
  f.number("setup_ms", setup_ms, {.low = 0, .high = 1e6, .unit = "ms", .doc = "custom: before a load's first byte; host 0.2, disk 0.5"});
  f.integer("channels", channels, {.low = 0, .high = 1024, .doc = "loads at a time, the others wait; 0: all at once"});
}

Paging::Paging(const PagingOptions& o, int64_t adapters) : options_(o) {
  const std::vector<int64_t> ranks = o.ranks.empty() ? std::vector<int64_t>{8, 16, 32, 64} : o.ranks;
  const bool custom = o.medium == "custom", host = o.medium == "host";
  setup_ms_ = custom ? o.setup_ms : host ? 0.2 : 0.5;
  bytes_per_ms_ = 1e6 * (custom ? o.bandwidth_gb_s : host ? 25 : 3);
  budget_ = static_cast<int64_t>(o.budget_mb * 1e6);
  for (int64_t a = 0; a < adapters; ++a) bytes_.push_back(ranks[a % std::ssize(ranks)] * o.parameters_per_rank * o.bytes_per_number);
  const int64_t largest = bytes_.empty() ? 0 : *std::max_element(bytes_.begin(), bytes_.end());
  if (by_bytes() && largest > budget_)
    throw ConfigError(fmt::format("budget_mb = {} has no room for an adapter of {:.1f} MB: raise it, or lower the ranks", o.budget_mb, static_cast<double>(largest) / 1e6));
}

int64_t Paging::slots() const {
  if (!by_bytes()) return std::min(options_.slots, adapters());
  return std::min(adapters(), budget_ / *std::max_element(bytes_.begin(), bytes_.end()));
}

void Paging::begin(PagingState& s) const {
  s = {};
  s.adapters.resize(adapters()), s.channels_ms.resize(options_.channels);
}

double Paging::arrives_ms(const PagingState& s, int64_t adapter, double now_ms) const {
  if (s.adapters[adapter].resident) return std::max(now_ms, s.adapters[adapter].ready_ms);
  const double free = s.channels_ms.empty() ? now_ms : *std::min_element(s.channels_ms.begin(), s.channels_ms.end());
  return std::max(now_ms, free) + load_ms(adapter);
}

double Paging::transfer(PagingState& s, int64_t adapter, double now_ms) const {
  const double ready = arrives_ms(s, adapter, now_ms);
  if (!s.channels_ms.empty()) *std::min_element(s.channels_ms.begin(), s.channels_ms.end()) = ready;
  s.paged_bytes += bytes_[adapter], ++s.loads;
  return ready;
}

double Paging::load(PagingState& s, int64_t adapter, double now_ms) const {
  TT_CHECK(!s.adapters[adapter].resident && has_room(s, adapter), "adapter {} is resident or has no room", adapter);
  const double ready = transfer(s, adapter, now_ms);
  PagingState::Adapter& a = s.adapters[adapter];
  a.resident = 1, a.ready_ms = ready, a.loaded = s.loads, a.credit = s.inflation + load_ms(adapter) / static_cast<double>(bytes_[adapter]);
  s.resident_bytes += bytes_[adapter], ++s.residents;
  return ready;
}

double Paging::load_passing(PagingState& s, int64_t adapter, double now_ms) const {
  TT_CHECK(!s.adapters[adapter].resident, "adapter {} is resident", adapter);
  return transfer(s, adapter, now_ms);
}

void Paging::evict(PagingState& s, int64_t adapter) const {
  TT_CHECK(s.adapters[adapter].resident == 1, "adapter {} is not resident", adapter);
  s.adapters[adapter].resident = 0, s.inflation = std::max(s.inflation, s.adapters[adapter].credit);
  s.resident_bytes -= bytes_[adapter], --s.residents;
}

void Paging::use(PagingState& s, int64_t adapter) const {
  PagingState::Adapter& a = s.adapters[adapter];
  a.aged = 1 + (a.last_used < 0 ? 0 : a.aged_now(s.clock));
  a.last_used = s.clock, ++a.uses, a.credit = s.inflation + load_ms(adapter) / static_cast<double>(bytes_[adapter]);
}

}  // namespace trimtab
