// Routers and ways to keep adapters resident: what a learned controller is compared with. Names of evaluation:
//
//   oracle            knows every expected quality: the best residents of each period (the drift's, else the whole episode) by resident_set.h,
//                     each request to the best of quality less price. What regret is measured from
//   best_single       the one model (an adapter or the base) of largest value in hindsight
//   static_k          the best residents in hindsight, kept; LinUCB among them and the base
//   static_prior      the same with the models of the prior tables
//   base, random_lru  the base model; any model
//   classifier_lru    knows the request's task and which model is best on average for it; what is missing is paged in over the LRU one
//   centroid_lru      the same for the task of nearest centroid (LoraRetriever, 2402.09997, with top-1)
//   linucb            LinUCB (Li et al. 2010), blind to the cache; the first residents stay, what is missing is used once and not kept
//   linucb_E          the same, what is missing is paged in over what eviction E chooses (eviction.h); linucb_belady knows its own future
//   epsilon_greedy_lru, thompson_lru   the same models with other exploration
//   aware_lru         LinUCB less the price of what is missing, LRU
//   prior_lru         the same from the models of the prior tables, where there are any: what a router knows that was fitted beforehand
//   index_loss        routes by the index of adapter_route.h and evicts the least loss, from the prior too and with its plan: what learned agents
//                     begin as
//   polar             the same index with residents fixed for an epoch, chosen at its end for the next from the epoch's contexts and the
//                     models' means (POLAR, 2604.16583)
//   polar_plus        epochs that double; each begins with forced pulls of adapters that were used less than c d log t times, as many at a
//                     time as fit, so that many pulls share a paging (POLAR+)
//
// POLAR's paper gives no constants: index and plan are as its abstract tells them, the rest is ours. Weights are per request: the plan pays
// a load once, against the sum over an epoch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "envs/adapter_route/adapter_route.h"

namespace trimtab {

class Router {
 public:
  virtual ~Router() = default;
  // Before a request: true where `wanted` [N] was filled with who shall be resident from now on.
  virtual bool plan(const AdapterRoute::State& state, std::vector<uint8_t>& wanted) { return static_cast<void>(state), static_cast<void>(wanted), false; }
  virtual int64_t route(const AdapterRoute::State& state) = 0;   // 0 to N
  virtual void learn(int64_t adapter, double quality) { static_cast<void>(adapter), static_cast<void>(quality); }
  virtual bool follows() const { return false; }   // goes by the State's own models, as agents do; who leaves is least_loss
};

std::vector<std::string> router_names();                     // of evaluation, as above
bool knows_the_future(const std::string& name);

// What a router did in an episode, request by request.
struct Routed {
  std::vector<int32_t> adapters;
  std::vector<double> quality, price, ttft_ms;   // expected; of the miss and of plans; ms
  std::vector<uint8_t> hit;
  AdapterRoute::State end;
};
Routed run_router(const AdapterRoute& env, const std::string& name, WorldKey key);   // ConfigError for an unknown name

// A router under the eviction `rule` ("": what is missing is used once and not kept), for combinations of one's own.
std::unique_ptr<Router> make_router(const std::string& name, const AdapterRoute& env, WorldKey key);   // "linucb", "polar", ...
Routed run_router(const AdapterRoute& env, Router& router, const std::string& rule, WorldKey key);
// A fixed sequence of adapters under an eviction, belady included.
Routed replay_routes(const AdapterRoute& env, const std::vector<int32_t>& routes, const std::string& rule, WorldKey key);

}  // namespace trimtab
