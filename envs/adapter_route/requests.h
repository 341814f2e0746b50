// Requests for adapters as S-LoRA's benchmark draws them (2311.03285, benchmarks/trace.py): the task's rank of popularity is floor(tasks X)
// with X of density alpha x^(alpha - 1) on [0, 1) (alpha 1: all alike; towards 0: a few tasks take all), gaps between arrivals are gamma
// distributed with mean 1 / rate and coefficient of variation `cv`, numbers of input and output tokens are uniform.
//
// Which task has which rank is drawn for the episode, and anew with every period of `drift`: at once (abrupt), or so that over a period a
// growing share of requests follows the next ranking (slow). All of a request belongs to (seed, episode, request): every policy meets the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"
#include "envs/environment.h"

namespace trimtab {

struct RequestOptions {
  int64_t requests = 512;
  double rate = 4, cv = 1, alpha = 0.3;
  int64_t input_low = 8, input_high = 512, output_low = 8, output_high = 512;   // tokens
  std::string drift = "none";
  int64_t drift_period = 128;   // requests
  std::string log = {};         // a file of request_log.h in place of all this but `requests`; empty: drawn
  void describe(Fields& f);
  void validate() const;
};

struct Request {
  double arrival_ms = 0;   // from 0, rising
  int32_t task = 0, input_tokens = 0, output_tokens = 0;
  int32_t padding = 0;     // so that saved bytes are all defined
};

// One number for the world of an episode: what draws of requests are keyed by.
uint64_t world_of(WorldKey key);
// Fills `out`, resized to options.requests. O(requests + periods * tasks).
void draw_requests(WorldKey key, const RequestOptions& options, int64_t tasks, std::vector<Request>& out);

}  // namespace trimtab
