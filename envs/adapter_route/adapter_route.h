// Multi-LoRA serving: which adapter answers a request, and which adapters stay resident. An episode is a stretch of requests, one decision for
// each in the order of arrival, when the server has a place for it:
//
//   time to first token = queueing (until one of `max_batch` places is free) + paging (until the adapter is there) + prefill
//   cost   = w_latency * time to first token [s] + w_bytes * paged [GB]
//   reward = quality - cost                                                                       additive, or
//          = (well_formed - 1) + quality ((1 - cost_share) + cost_share exp(-cost))               hierarchical
//
// The latter is Router-R1's order (arXiv 2506.09033): the form comes first, an answer in another one gets -1 and nothing else (its quality is 0); then
// being right; and cost tells right answers apart, a wrong one has nothing to gain from being cheap. Shares of several answers are its mean over
// them, where each is right or wrong. exp(-cost) is ours, in (0, 1]: there a cost is ranked among the last 1000.
// Only the chosen adapter's quality is observed. What a miss costs by itself, `price`, is w_latency * load time + w_bytes * size.
//
// Agent `route` chooses one of N adapters or the base model (the last item). Agent `evict` (eviction: learned) chooses who makes room when what
// was chosen is missing and finds none; otherwise its choice is not asked for (`due` 0). What is shown of qualities is a ridge regression for
// each adapter, learned within the episode (policies/bandits/ridge_model.h), from nothing or from tables that were recorded before (`prior`).
//
// From these models' means q follows what a place in memory is worth, as POLAR's slow time scale has it:
//
//   planned  the best residents (resident_set.h) for the last `window` requests and some contexts of the prior tables, chosen anew every `replan`
//            requests, where a change costs its price once
//   gain_a   fading mean over requests of max(0, q_a(x) - best q_b(x) of the base model and the residents but a)
//   loss_v   what it costs that a resident v leaves: its price where it is planned, else nothing. Who leaves has the least loss, then the least gain
//   index_a  q_a(x) + alpha deviation; less price_a + the least loss of a resident where a is missing and not planned
//
// Without a plan (window 0) the index is cache-aware LinUCB's.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "envs/adapter_route/eviction.h"
#include "envs/adapter_route/paging.h"
#include "envs/adapter_route/request_log.h"
#include "envs/adapter_route/requests.h"
#include "envs/adapter_route/tables.h"
#include "envs/environment.h"
#include "policies/bandits/ridge_model.h"

namespace trimtab {

struct RouterOptions {
  double alpha = 0.6, ridge = 0.2;       // of LinUCB's bonus; of A at the start
  double epsilon = 0.05, noise = 0.1;    // epsilon-greedy; Thompson's standard deviation of a reward
  int64_t epoch = 256, first_epoch = 64; // requests: POLAR's; POLAR+'s first
  int64_t window = 64, replan = 16;      // requests
  double explore = 0.2;                  // c of POLAR+'s forced pulls: c d log t
  void describe(Fields& f);
};

// What was known of qualities before the first request.
struct PriorOptions {
  std::vector<std::string> tables;
  double weight = 1;
  int64_t contexts = 64;
  bool by_task = false;
  void describe(Fields& f);
};

struct RouteRewardOptions {
  std::string kind = "additive";
  double cost_share = 0.2;
  void describe(Fields& f);
};

struct AdapterRouteOptions {
  std::string mode = "synthetic", eviction = "lru";
  double w_latency = 2, w_bytes = 0;     // per second, per GB
  RouteRewardOptions reward;
  double slo_ms = 500;
  int64_t max_batch = 32;
  double prefill_ms = 15, prefill_token_ms = 0.1, decode_token_ms = 20;
  RequestOptions requests;
  PagingOptions paging;
  SyntheticQualityOptions synthetic;
  RouterOptions routers;
  PriorOptions prior;
  int64_t episodes = 8;
  void describe(Fields& f);
};
AdapterRouteOptions adapter_route_options(const Config& config);   // of the env block
std::unique_ptr<QualitySource> open_qualities(const AdapterRouteOptions& options, const std::vector<std::string>& files);

class AdapterRoute {
 public:
  struct State {
    WorldKey key;
    uint64_t world = 0;
    std::vector<Request> requests;
    int64_t next = 0;                   // the request that waits for its decision
    double now_ms = 0;                  // when
    Prompt prompt;                      // of it
    std::vector<double> places_ms;      // [max_batch] free from then on
    std::vector<int32_t> places_model;  // [max_batch] who is at work there
    PagingState paging;
    // Kept by follow():
    std::vector<float> features;        // of the prompt, that models see
    std::vector<RidgeModel> models;     // [N + 1]
    std::vector<int64_t> counts;        // [N + 1] of their observations
    std::vector<double> gains;          // [N]
    std::vector<double> means;          // [window, N + 1] of the last requests, in turn
    std::vector<uint8_t> planned;       // [N]
    int64_t route = 0, victim = -1;     // what the agents chose
    int64_t adapted = 0, hits = 0, in_time = 0;   // requests that an adapter served, those that found it resident; in slo_ms
    int64_t batch_models = 0;           // adapters at work, summed over requests
    double quality = 0, ttft_ms = 0;
  };
  AdapterRoute(const AdapterRouteOptions& options, std::unique_ptr<QualitySource> source);

  const EnvSpec& spec() const { return spec_; }
  void reset(State& s, WorldKey key) const;
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const;
  void act(State& s, int agent, const float* action) const;
  StepOutcome step(State& s, float* terms) const;
  void serialise(State& s, Archive& a) const;
  template <class Add>
  void episode_statistics(const State& s, const Add& add) const {
    const double requests = static_cast<double>(s.requests.size());
    add("quality", s.quality / requests);
    add("hit_rate", s.adapted > 0 ? static_cast<double>(s.hits) / static_cast<double>(s.adapted) : 1);
    add("paged_gb", static_cast<double>(s.paging.paged_bytes) / 1e9);
    add("ttft_ms", s.ttft_ms / requests);
    add("in_time", static_cast<double>(s.in_time) / requests);
  }

  // ---- requests, for routers and evaluation ----
  struct Choice {
    int64_t adapter = 0;
    bool stays = true;                     // where it is missing and there is no room: others make room; else it is used once and not kept
    int64_t victim = -1;                   // goes first, then as `eviction` says; -1 or not resident: at once as `eviction` says
    Eviction eviction = Eviction::kLru;
    std::span<const int32_t> future = {};  // of belady
  };
  struct Served {
    bool hit = true;                       // the base model counts as one
    int64_t bytes = 0;
    double queue_ms = 0, paging_ms = 0, prefill_ms = 0;
    double quality = 0, observed = 0;      // expected, and with noise
    double well_formed = 1;
    double price = 0;                      // of the miss
    bool over = false;
    double ttft_ms() const { return queue_ms + paging_ms + prefill_ms; }
  };
  Served serve(State& s, const Choice& choice) const;
  // Serves what the agents chose, and learns from it: a step.
  Served follow(State& s) const;
  // These and no others are wanted from now on: loads what is missing, over those that are not wanted. Gives the price of the loads.
  double set_residents(State& s, std::span<const uint8_t> wanted) const;

  int64_t adapters() const { return source_->adapters(); }   // N, and so the base model's number
  bool missing(const State& s, int64_t adapter) const { return adapter < adapters() && !s.paging.adapters[adapter].resident; }
  double price(int64_t adapter) const { return adapter < adapters() ? prices_[adapter] : 0; }
  std::span<const double> prices() const { return prices_; }   // [N]
  std::vector<double> qualities(WorldKey key) const;            // [requests, N + 1] expected: hindsight
  void requests(WorldKey key, std::vector<Request>& out) const;   // of the episode
  const QualityPrior& prior() const { return prior_; }
  double loss(const State& s, int64_t adapter) const;           // of a resident; 0 for others
  double index(const State& s, int64_t adapter) const;          // of 0 to N
  int64_t least_loss(const State& s) const;                     // the resident that should leave; -1: none
  const Paging& paging() const { return paging_; }
  const QualitySource& source() const { return *source_; }
  const AdapterRouteOptions& options() const { return options_; }

 private:
  void advance(State& s) const;                              // to the next request
  Served answer(State& s, const Choice& choice) const;       // this one
  double bring(State& s, const Choice& choice) const;
  void reward(const Served& served, float* terms) const;
  bool due(const State& s) const;   // an eviction
  void notice(State& s) const;      // the present prompt, in gains and means
  void plan(State& s) const;
  double entry_price(const State& s, int64_t adapter) const;   // what index() takes off where it is missing
  void show_items(const State& s, int64_t count, ObservationRows out) const;
  std::span<float> show_context(const State& s, float* out) const;

  AdapterRouteOptions options_;
  std::unique_ptr<QualitySource> source_;
  Paging paging_;
  std::vector<double> prices_;
  std::optional<RequestLog> log_;
  QualityPrior prior_;
  std::vector<double> prior_means_;   // [contexts, N + 1]
  Eviction eviction_;
  EnvSpec spec_;
};

}  // namespace trimtab
