// Evaluation of kv_precision's mode layers on a table of sensitivities: budgets side by side, the rules people use, the exact optimum as the oracle.
#include <algorithm>

#include "envs/evaluation.h"
#include "envs/kv_precision/layers.h"

namespace trimtab {
namespace {

class KvLayersEvaluator final : public Evaluator {
 public:
  KvLayersEvaluator(const KvLayersOptions& options, const std::string& file) : options_(options), env_(options, open_sensitivities({file})) {
    for (int64_t i = 0; i < kBudgets; ++i) best_.push_back(best_allocation(env_.table(0), budget_of(i)));
  }

  std::vector<MetricInfo> metrics() const override {
    return {{"surrogate_kl", "nat", false}, {"over_optimum", "", false}, {"bits_per_element", "bit", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned) out.push_back({"learned", "learned"});
    out.push_back({"uniform", "baseline"});
    for (const std::string& name : heuristic_names()) out.push_back({name, "baseline"});
    out.push_back({"best_allocation", "oracle"});
    return out;
  }
  int64_t num_episodes() const override { return kBudgets; }
  std::string reference() const override { return "sensitive_first"; }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool) const override {
    const KvSensitivity& t = env_.table(0);
    const int64_t budget = budget_of(episode);
    const KvAllocation a = policy == "learned"           ? decide_widths(env_, agents, bits_of(episode))
                           : policy == "uniform"         ? uniform_allocation(t, widest_uniform_pair(t, budget))
                           : policy == "best_allocation" ? best_[episode]
                                                         : heuristic_allocation(t, policy, budget, seed);
    const double kl = surrogate_kl(t, a), best = surrogate_kl(t, best_[episode]);
    return {{kl, kl / std::max(best, 1e-12) - 1, t.bits(allocation_bytes(t, a))}, {}, {}};
  }

 private:
  static constexpr int64_t kBudgets = 32;

  double bits_of(int64_t episode) const {
    return options_.low_bits + (options_.high_bits - options_.low_bits) * (static_cast<double>(episode) + 0.5) / kBudgets;
  }
  int64_t budget_of(int64_t episode) const {
    const KvSensitivity& t = env_.table(0);
    return std::max(t.bytes_at(bits_of(episode)), least_bytes(t));
  }

  KvLayersOptions options_;
  KvLayers env_;
  std::vector<KvAllocation> best_;   // of each budget: every policy is compared with it
};

}  // namespace

KvAllocation decide_widths(const KvLayers& env, const AgentFactory& agents, double bits) {
  const auto made = agents();
  const ObservationSpec& view = env.spec().agents[0].observation;
  std::vector<float> context(view.context_size()), items(view.max_items * view.item_size());
  std::vector<uint8_t> mask(view.max_items);
  KvLayers::State s;
  env.begin(s, 0, bits);
  KvAllocation out;
  for (bool over = false; !over;) {
    float action = 0, term = 0;
    env.observe(s, 0, {context.data(), items.data(), mask.data()});
    made.at("widths")->decide(context.data(), items.data(), mask.data(), view.max_items, &action);
    out.push_back(static_cast<int>(action));
    env.act(s, 0, &action);
    over = env.step(s, &term).terminated;
  }
  return out;
}

std::unique_ptr<Evaluator> make_layers_evaluator(const Config& config, const std::string& file) {
  return std::make_unique<KvLayersEvaluator>(kv_layers_options(config), file);
}

}  // namespace trimtab
