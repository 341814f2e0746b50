// Serves requests that name their adapters: adapters come from a pool (engine/adapters), their requests are decoded together, and keys and
// values lie in the same pool's pages, as in S-LoRA (arXiv 2311.03285).
//
// Requests are taken in waves, in their order. A wave holds those whose adapters can be resident together; adapters of the next requests are
// brought in on another thread while it is decoded. What does not fit waits for the next wave, and is then the first to be served.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/adapters/adapter_pool.h"
#include "engine/multi_lora/multi_lora_generator.h"

namespace trimtab {

struct ServedRequest {
  GenerationRequest request = {};
  std::string adapter = {};        // as the store calls it; empty: the base model
};

struct ServedReply {
  std::vector<Completion> completions = {};   // one a sample; `request` is the number of the request
  std::string error = {};                     // why there are none: the adapter's files are bad, or the whole pool is too small for it. Others are served
};

struct ServerStatistics {
  int64_t waves = 0, requests = 0;   // requests of all waves
  int64_t adapters = 0;              // different ones of a wave, the base model not counted, summed over waves
  double adapters_per_wave() const { return waves > 0 ? static_cast<double>(adapters) / static_cast<double>(waves) : 0; }
};

class AdapterServer {
 public:
  // options.max_sequences requests make a wave at most. The model and the pool must outlive the server. ConfigError as MultiLoraGenerator's.
  AdapterServer(const Transformer& base, AdapterPool& adapters, const GeneratorOptions& options, Pool& pool);

  // Replies in the order of requests. DataError for an adapter that the store does not know, before anything is served; RunError when the pool
  // is too small for one request's adapter and caches. `progress` is told the requests that are done.
  std::vector<ServedReply> serve(std::span<const ServedRequest> requests, const SamplingOptions& sampling, const StopRules& stop, uint64_t seed, Pool& pool,
                                 const std::function<void(int64_t done)>& progress = {});
  const ServerStatistics& statistics() const { return statistics_; }   // of all calls

 private:
  struct Wave;
  struct Call;
  Wave next_wave(std::span<const ServedRequest> requests, std::vector<int64_t>& waiting, std::vector<ServedReply>& replies);
  bool lease(Wave& wave, const std::string& adapter, bool needed, std::string& error);
  bool decode(const Wave& wave, const Call& call, std::vector<ServedReply>& replies);
  void halve(Wave& wave, Call& call) const;
  void prefetch(std::span<const ServedRequest> requests, std::span<const int64_t> waiting, const Wave& wave);

  AdapterPool& adapters_;
  const int64_t most_requests_;
  MultiLoraGenerator generator_;
  ServerStatistics statistics_;
};

}  // namespace trimtab
