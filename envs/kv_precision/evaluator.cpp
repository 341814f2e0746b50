// Evaluation of kv_precision on a table of sensitivities: budgets side by side, the rules people use, the exact optimum as the oracle.
#include <algorithm>

#include "envs/evaluation.h"
#include "envs/kv_precision/layers.h"

namespace trimtab {
namespace {

class KvPrecisionEvaluator final : public Evaluator {
 public:
  KvPrecisionEvaluator(const KvPrecisionOptions& options, const std::string& file) : options_(options), env_(options, open_sensitivities({file})) {}

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
    const double bits = options_.low_bits + (options_.high_bits - options_.low_bits) * (static_cast<double>(episode) + 0.5) / kBudgets;
    const int64_t budget = std::max(t.bytes_at(bits), least_bytes(t));
    const KvAllocation a = policy == "learned"           ? decide(agents, bits)
                           : policy == "uniform"         ? widest_uniform(budget)
                           : policy == "best_allocation" ? best_allocation(t, budget)
                                                         : heuristic_allocation(t, policy, budget, seed);
    const double kl = surrogate_kl(t, a), best = surrogate_kl(t, best_allocation(t, budget));
    return {{kl, kl / std::max(best, 1e-12) - 1, t.bits(allocation_bytes(t, a))}, {}, {}};
  }

 private:
  static constexpr int64_t kBudgets = 32;

  KvAllocation widest_uniform(int64_t budget) const {
    const KvSensitivity& t = env_.table(0);
    int best = cheapest_pair(t);
    for (int p = 0; p < static_cast<int>(t.pairs.size()); ++p)
      if (t.page_bytes[p] > t.page_bytes[best] && t.units() * t.unit_bytes(p) <= budget) best = p;
    return uniform_allocation(t, best);
  }

  KvAllocation decide(const AgentFactory& agents, double bits) const {
    const auto made = agents();
    const ObservationSpec& view = env_.spec().agents[0].observation;
    std::vector<float> context(view.context_size()), items(view.max_items * view.item_size());
    std::vector<uint8_t> mask(view.max_items);
    KvLayers::State s;
    env_.begin(s, 0, bits);
    KvAllocation out;
    for (bool over = false; !over;) {
      float action = 0, term = 0;
      env_.observe(s, 0, {context.data(), items.data(), mask.data()});
      made.at("widths")->decide(context.data(), items.data(), mask.data(), view.max_items, &action);
      out.push_back(static_cast<int>(action));
      env_.act(s, 0, &action);
      over = env_.step(s, &term).terminated;
    }
    return out;
  }

  KvPrecisionOptions options_;
  KvLayers env_;
};

}  // namespace

TT_REGISTER(EvaluatorEntry, kv_precision,
            {.name = "kv_precision", .make = [](const Config& config, const std::string& file) -> std::unique_ptr<Evaluator> {
               return std::make_unique<KvPrecisionEvaluator>(kv_precision_options(config), file);
             }});

}  // namespace trimtab
