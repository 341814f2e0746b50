#include "engine/multi_lora/adapter_server.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "core/error.h"

namespace trimtab {

struct AdapterServer::Wave {
  std::vector<int64_t> requests;                 // their numbers
  std::map<std::string, AdapterLease> leases;    // of their adapters
  std::set<std::string> no_room;                 // adapters that wait for another wave
};

struct AdapterServer::Call {
  std::span<const ServedRequest> requests;
  const SamplingOptions& sampling;
  const StopRules& stop;
  uint64_t seed = 0;
  Pool& pool;
  std::vector<int64_t> waiting;   // requests by their numbers
};

AdapterServer::AdapterServer(const Transformer& base, AdapterPool& adapters, const GeneratorOptions& options, Pool& pool)
    : adapters_(adapters), most_requests_(options.max_sequences), generator_(base, options, pool) {
  if (options.token_budget > 0) throw ConfigError("a server serves every request to its end: leave token_budget out");
}

// Whether the wave has the adapter now. `needed`: nothing else is in the wave, so that no room for it is an error.
bool AdapterServer::lease(Wave& wave, const std::string& adapter, bool needed, std::string& error) {
  if (adapter.empty() || wave.leases.contains(adapter)) return true;
  if (wave.no_room.contains(adapter)) return false;
  try {
    if (needed) {
      wave.leases.emplace(adapter, adapters_.acquire(adapter));
      return true;
    }
    auto lease = adapters_.try_acquire(adapter);
    if (!lease) return wave.no_room.insert(adapter), false;
    wave.leases.emplace(adapter, std::move(*lease));
    return true;
  } catch (const DataError& e) {
    error = e.what();   // the pool is as it was
  } catch (const ConfigError& e) {
    error = e.what();   // more than the whole pool
  }
  return false;
}

// Takes out of `waiting` what is served now, and what never can be.
AdapterServer::Wave AdapterServer::next_wave(std::span<const ServedRequest> requests, std::vector<int64_t>& waiting, std::vector<ServedReply>& replies) {
  Wave wave;
  std::vector<int64_t> left;
  for (const int64_t r : waiting) {
    std::string& error = replies[r].error;
    if (static_cast<int64_t>(wave.requests.size()) < most_requests_ && lease(wave, requests[r].adapter, wave.requests.empty(), error)) wave.requests.push_back(r);
    else if (error.empty()) left.push_back(r);
  }
  waiting = std::move(left);
  return wave;
}

// Adapters of the next wave's requests, in their order, as long as they find room beside those in use and one another.
void AdapterServer::prefetch(std::span<const ServedRequest> requests, std::span<const int64_t> waiting, const Wave& wave) {
  std::set<std::string> asked;
  for (const int64_t r : waiting.first(std::min<size_t>(waiting.size(), static_cast<size_t>(most_requests_)))) {
    const std::string& adapter = requests[r].adapter;
    if (!adapter.empty() && !wave.leases.contains(adapter) && asked.insert(adapter).second) adapters_.prefetch(adapter);
  }
}

// The whole wave in one batch. False: the pool has no pages for its caches beside its adapters.
bool AdapterServer::decode(const Wave& wave, const Call& call, std::vector<ServedReply>& replies) {
  std::vector<AdaptedRequest> batch;
  for (const int64_t r : wave.requests) {
    const ServedRequest& request = call.requests[r];
    batch.push_back({request.request, request.adapter.empty() ? nullptr : &wave.leases.at(request.adapter).weights()});
  }
  struct NoRoom {};
  std::optional<PageLease> caches;
  const CacheMemory in_pages = [&](int64_t numbers) {
    const int64_t bytes = numbers * static_cast<int64_t>(sizeof(float)), page = adapters_.page_bytes();
    caches = adapters_.try_take_pages((bytes + page - 1) / page);
    if (!caches) throw NoRoom();
    std::memset(caches->bytes().data(), 0, caches->bytes().size());
    prefetch(call.requests, call.waiting, wave);   // behind the caches, which must have room
    return reinterpret_cast<float*>(caches->bytes().data());
  };
  try {
    for (Completion& c : generator_.generate(batch, call.sampling, call.stop, call.seed, call.pool, in_pages)) {
      const int64_t r = wave.requests[c.request];
      c.request = r;
      replies[r].completions.push_back(std::move(c));
    }
  } catch (const NoRoom&) {
    return false;
  }
  return true;
}

// Its second half waits again, in front of the others.
void AdapterServer::halve(Wave& wave, Call& call) const {
  if (wave.requests.size() == 1)
    throw RunError(fmt::format("request {}: the pool of {} bytes has no room for its keys and values beside its adapter: raise the pool's bytes, or lower max_tokens or samples",
                               wave.requests[0], adapters_.bytes()));
  const auto half = wave.requests.begin() + static_cast<std::ptrdiff_t>(wave.requests.size() / 2);
  call.waiting.insert(call.waiting.begin(), half, wave.requests.end());
  std::sort(call.waiting.begin(), call.waiting.end());
  wave.requests.erase(half, wave.requests.end());
  std::set<std::string> used;
  for (const int64_t r : wave.requests) used.insert(call.requests[r].adapter);
  std::erase_if(wave.leases, [&](const auto& lease) { return !used.contains(lease.first); });
}

std::vector<ServedReply> AdapterServer::serve(std::span<const ServedRequest> requests, const SamplingOptions& sampling, const StopRules& stop, uint64_t seed,
                                              Pool& pool, const std::function<void(int64_t)>& progress) {
  for (const ServedRequest& r : requests)
    if (!r.adapter.empty()) adapters_.store().check_name(r.adapter);
  std::vector<ServedReply> replies(requests.size());
  Call call{requests, sampling, stop, seed, pool, std::vector<int64_t>(requests.size())};
  std::iota(call.waiting.begin(), call.waiting.end(), int64_t{0});
  while (!call.waiting.empty()) {
    Wave wave = next_wave(requests, call.waiting, replies);
    if (wave.requests.empty()) continue;   // no adapter could be used
    while (!decode(wave, call, replies)) halve(wave, call);
    ++statistics_.waves, statistics_.requests += static_cast<int64_t>(wave.requests.size());
    statistics_.adapters += static_cast<int64_t>(wave.leases.size());
    if (progress) progress(static_cast<int64_t>(requests.size() - call.waiting.size()));
  }
  return replies;
}

}  // namespace trimtab
