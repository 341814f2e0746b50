// Evaluation of draft_serving: sequences of arrivals at one rate, served with every rule and with the learned controller. All meet the same
// arrivals, texts, drafts and coins.
#include <algorithm>

#include "core/error.h"
#include "envs/draft_length/results_in_order.h"
#include "envs/draft_length/rules.h"
#include "envs/draft_length/serving/draft_serving.h"
#include "envs/draft_length/serving/serving_rules.h"

namespace trimtab {
namespace {

// The value that 95 % do not exceed, of (value, how often).
double percentile_95(std::vector<std::pair<double, int64_t>> values) {
  std::sort(values.begin(), values.end());
  int64_t total = 0, below = 0;
  for (const auto& [value, count] : values) total += count;
  for (const auto& [value, count] : values)
    if (below += count; static_cast<double>(below) >= 0.95 * static_cast<double>(total)) return value;
  return 0;   // of none
}

struct ServingTally {
  std::vector<DraftServing::Served> served;
  std::vector<std::pair<double, int64_t>> gaps;   // ms between tokens of a sequence

  void add(const DraftServing::Round& r) {
    gaps.push_back({r.ms, r.batch - r.first});    // before its first token a sequence has no gap
    gaps.push_back({0, r.tokens - r.batch});      // they come together
  }
  EpisodeResult result(const DraftServing::State& s) const {
    double good_tokens = 0;
    std::vector<std::pair<double, int64_t>> per_token;
    for (const DraftServing::Served& q : served) {
      per_token.push_back({q.ms() / static_cast<double>(q.tokens), 1});
      if (q.in_time) good_tokens += static_cast<double>(q.tokens);
    }
    const double ms = s.now_ms - s.arrivals[0], requests = static_cast<double>(s.finished), tokens = static_cast<double>(s.tokens);
    return {{s.per_token_ms / requests, percentile_95(per_token), percentile_95(gaps), 1000 * good_tokens / ms, static_cast<double>(s.in_time) / requests,
             (s.waiting_ms + s.decoding_ms) / requests, tokens / ms, s.decoding_ms / s.busy_ms, static_cast<double>(s.drafted - s.accepted) / tokens},
            {},
            {}};
  }
};

class DraftServingEvaluator final : public Evaluator {
 public:
  DraftServingEvaluator(const DraftServingOptions& options, const std::string& file) : env_(options, open_drafts(options, {file})) {
    if (options.low_rate != options.high_rate)
      throw ConfigError(fmt::format("evaluation needs one rate of arrivals, not {} to {} per second: give env.low_rate=X env.high_rate=X", options.low_rate, options.high_rate));
  }

  std::vector<MetricInfo> metrics() const override {
    return {{"ms_per_token", "ms", false}, {"p95_ms_per_token", "ms", false}, {"p95_gap_ms", "ms", false}, {"goodput", "tokens/s", true}, {"in_time", "", true},
            {"time_in_system", "ms", false}, {"tokens_per_ms", "1/ms", true}, {"mean_batch", "sequences", true}, {"wasted_per_token", "", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned) out.push_back({"learned", "learned"});
    for (const std::string& name : serving_rule_names(env_)) out.push_back({name, "baseline"});
    return out;
  }
  int64_t num_episodes() const override { return env_.options().episodes; }
  std::string reference() const override { return "table"; }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool) const override {
    if (policy == "learned") return run_learned(agents, episode, seed);
    if (learns_while_running(policy)) return run_in_order(policy, seed)[episode];
    return run_rule(*make_serving_rule(policy, env_, seed), episode, seed);
  }

 private:
  template <class Length, class Learn>
  EpisodeResult serve(int64_t episode, uint64_t seed, const Length& length, const Learn& learn) const {
    DraftServing::State s;
    env_.begin(s, {seed, static_cast<uint64_t>(episode)}, env_.options().low_rate);
    ServingTally tally;
    for (DraftServing::Round r; !r.over;) {
      r = env_.round(s, length(s), &tally.served);
      learn(r), tally.add(r);
    }
    return tally.result(s);
  }

  EpisodeResult run_rule(ServingRule& rule, int64_t episode, uint64_t seed) const {
    return serve(episode, seed, [&](const DraftServing::State& s) { return rule.length(s); }, [&](const DraftServing::Round& r) { rule.learn(r); });
  }

  const std::vector<EpisodeResult>& run_in_order(const std::string& policy, uint64_t seed) const {
    return in_order_.of(policy, seed, [&] {
      const auto rule = make_serving_rule(policy, env_, seed);
      std::vector<EpisodeResult> out;
      for (int64_t e = 0; e < num_episodes(); ++e) out.push_back(run_rule(*rule, e, seed));
      return out;
    });
  }

  EpisodeResult run_learned(const AgentFactory& agents, int64_t episode, uint64_t seed) const {
    const auto made = agents();
    AgentFunction& agent = *made.begin()->second;
    std::vector<float> context(env_.spec().agents[0].observation.context_size());
    const auto length = [&](const DraftServing::State& s) {
      float action = 0;
      env_.observe(s, 0, {context.data(), nullptr, nullptr});
      agent.decide(context.data(), nullptr, nullptr, 0, &action);
      return env_.lengths()[static_cast<size_t>(action)];
    };
    return serve(episode, seed, length, [](const DraftServing::Round&) {});
  }

  DraftServing env_;
  mutable ResultsInOrder in_order_;
};

TT_REGISTER(EvaluatorEntry, draft_serving_evaluator,
            {.name = "draft_serving", .make = [](const Config& config, const std::string& file) -> std::unique_ptr<Evaluator> {
               return std::make_unique<DraftServingEvaluator>(draft_serving_options(config), file);
             }});

}  // namespace
}  // namespace trimtab
