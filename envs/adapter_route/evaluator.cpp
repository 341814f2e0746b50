// Evaluation of adapter_route: stretches of requests, served by every router of routers.h and by the learned agents. All meet the same requests,
// prompts and noise; routers begin each episode knowing nothing but what routers.h says. Qualities are expected ones. What has no adapter has
// hit rate 1. The slope of regret is that of log regret on log requests over the last fifteen sixteenths of the episode, undefined (NaN) where
// regret is not above 0 all along, as the oracle's.
#include <algorithm>

#include "core/error.h"
#include "envs/adapter_route/regret.h"
#include "envs/evaluation.h"

namespace trimtab {
namespace {

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}
// The value that a share of `rank` does not exceed; `sorted` is not empty.
double percentile(const std::vector<double>& sorted, double rank) {
  const auto at = static_cast<int64_t>(std::ceil(rank * static_cast<double>(sorted.size()))) - 1;
  return sorted[std::clamp<int64_t>(at, 0, std::ssize(sorted) - 1)];
}

class AdapterRouteEvaluator final : public Evaluator {
 public:
  AdapterRouteEvaluator(const AdapterRouteOptions& options, const std::string& file)
      : env_(options, open_qualities(options, file.empty() ? std::vector<std::string>() : std::vector<std::string>{file})) {}

  std::vector<MetricInfo> metrics() const override {
    return {{"quality", "", true},       {"quality_of_oracle", "%", true}, {"value", "", true},       {"ttft_ms", "ms", false},  {"ttft_p50_ms", "ms", false},
            {"ttft_p95_ms", "ms", false}, {"ttft_p99_ms", "ms", false},     {"in_time", "", true},     {"hit_rate", "", true},    {"paged_gb", "GB", false}, {"adapters_per_batch", "", false},
            {"regret", "", false},       {"routing_regret", "", false},    {"paging_regret", "", false}, {"regret_slope", "", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned) out.push_back({"learned", "learned"});
    for (const std::string& name : router_names()) out.push_back({name, knows_the_future(name) ? "oracle" : "baseline"});
    return out;
  }
  int64_t num_episodes() const override { return env_.options().episodes; }
  std::string reference() const override { return "linucb_lru"; }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool with_series) const override {
    const WorldKey key{seed, static_cast<uint64_t>(episode)};
    const Routed oracle = run_router(env_, "oracle", key);
    const Routed routed = policy == "learned" ? run_learned(agents, key) : run_router(env_, policy, key);
    return result(routed, oracle, with_series);
  }

 private:
  EpisodeResult result(const Routed& routed, const Routed& oracle, bool with_series) const {
    const Regret regret = regret_of(routed, oracle);
    const auto requests = std::ssize(routed.quality);
    const AdapterRoute::State& end = routed.end;
    std::vector<double> ttft = routed.ttft_ms;
    std::sort(ttft.begin(), ttft.end());
    const double quality = mean_of(routed.quality);
    EpisodeResult out;
    out.metrics = {quality, 100 * quality / mean_of(oracle.quality), quality - mean_of(routed.price), mean_of(ttft), percentile(ttft, 0.5), percentile(ttft, 0.95),
                   percentile(ttft, 0.99), static_cast<double>(end.in_time) / static_cast<double>(requests),
                   end.adapted > 0 ? static_cast<double>(end.hits) / static_cast<double>(end.adapted) : 1, static_cast<double>(end.paging.paged_bytes) / 1e9,
                   static_cast<double>(end.batch_models) / static_cast<double>(requests), regret.total(requests), regret.routing.back(), regret.paging.back(), regret.slope(requests / 16, requests)};
    if (!with_series) return out;
    for (int64_t t = 0; t < requests; ++t) out.series["regret"].push_back(static_cast<float>(regret.total(t + 1)));
    out.series["routing_regret"].assign(regret.routing.begin(), regret.routing.end());
    out.series["paging_regret"].assign(regret.paging.begin(), regret.paging.end());
    out.series["ttft_ms"].assign(routed.ttft_ms.begin(), routed.ttft_ms.end());
    return out;
  }

  Routed run_learned(const AgentFactory& factory, WorldKey key) const {
    const auto agents = factory();
    std::vector<AgentFunction*> by_turn;
    for (const AgentSpec& agent : env_.spec().agents) {
      const auto found = agents.find(agent.name);
      if (found == agents.end()) throw ConfigError(fmt::format("the run has no agent '{}', which eviction: {} asks for", agent.name, env_.options().eviction));
      by_turn.push_back(found->second.get());
    }
    Routed out;
    env_.reset(out.end, key);
    for (bool over = false; !over;) {
      for (size_t i = 0; i < by_turn.size(); ++i) decide(out.end, static_cast<int>(i), *by_turn[i]);
      const int64_t adapter = out.end.route;
      const AdapterRoute::Served served = env_.follow(out.end);
      out.adapters.push_back(static_cast<int32_t>(adapter)), out.hit.push_back(served.hit);
      out.quality.push_back(served.quality), out.price.push_back(served.price), out.ttft_ms.push_back(served.ttft_ms());
      over = served.over;
    }
    return out;
  }

  void decide(AdapterRoute::State& s, int turn, AgentFunction& agent) const {
    const ObservationSpec& spec = env_.spec().agents[turn].observation;
    std::vector<float> context(spec.context_size()), items(spec.max_items * spec.item_size());
    std::vector<uint8_t> mask(spec.max_items);
    env_.observe(s, turn, {context.data(), items.data(), mask.data()});
    float action = 0;
    agent.decide(context.data(), items.data(), mask.data(), spec.max_items, &action);
    env_.act(s, turn, &action);
  }

  AdapterRoute env_;
};

TT_REGISTER(EvaluatorEntry, adapter_route_evaluator,
            {.name = "adapter_route", .make = [](const Config& config, const std::string& file) -> std::unique_ptr<Evaluator> {
               return std::make_unique<AdapterRouteEvaluator>(adapter_route_options(config), file);
             }});

}  // namespace
}  // namespace trimtab
