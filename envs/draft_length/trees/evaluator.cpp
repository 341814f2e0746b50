// Evaluation of draft_tree on a recording: every text with every fixed budget, with the drafter's own estimates, with the learned controller,
// and with an oracle that knows what will be accepted.
#include <algorithm>

#include "core/error.h"
#include "envs/draft_length/trees/draft_tree.h"

namespace trimtab {
namespace {

std::vector<TokenText> texts_of(const DraftTreeOptions& options, const std::string& file) {
  if (options.mode != "replay") throw ConfigError("mode synthetic has no texts to evaluate on: give a recording and env.mode=replay");
  if (options.low_batch != options.high_batch)
    throw ConfigError(fmt::format("evaluation needs one batch size, not {} to {}: give env.low_batch=N env.high_batch=N", options.low_batch, options.high_batch));
  return read_token_texts({file});
}

class DraftTreeEvaluator final : public Evaluator {
 public:
  DraftTreeEvaluator(const DraftTreeOptions& options, const std::string& file) : env_(options, texts_of(options, file)), batch_(options.low_batch) {
    // Estimates that are too high would lower a rate of their own, and that make them ask for more still: they are priced at the best fixed one.
    rates_[false] = env_.reference_rate(batch_), rates_[true] = oracle_rate();
  }

  std::vector<MetricInfo> metrics() const override {
    return {{"tokens_per_ms", "1/ms", true}, {"ms", "ms", false}, {"tokens_per_round", "tokens", true}, {"nodes_per_round", "tokens", false}, {"wasted_nodes", "tokens", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned) out.push_back({"learned", "learned"});
    for (const int64_t b : env_.budgets()) out.push_back({name_of(b), "baseline"});
    out.push_back({"estimates", "baseline"});       // the budget of most gain by the drafter's own scores
    out.push_back({"acceptance_known", "oracle"});
    return out;
  }
  int64_t num_episodes() const override { return env_.table().texts(); }
  std::string reference() const override { return name_of(env_.budgets()[env_.best_fixed(batch_)]); }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t, bool) const override {
    if (policy == "learned") {
      const auto made = agents();
      std::vector<float> context(env_.spec().critic.context_size());
      return result(episode, [&](const DraftTreeBudget::State& s) {
        float action = 0;
        env_.observe(s, 0, {context.data(), nullptr, nullptr});
        made.begin()->second->decide(context.data(), nullptr, nullptr, 0, &action);
        return static_cast<int>(action);
      });
    }
    const bool known = policy == "acceptance_known";
    if (known || policy == "estimates") return result(episode, [&](const DraftTreeBudget::State& s) { return env_.best_budget(s, rates_[known], known); });
    for (size_t i = 0; i < env_.budgets().size(); ++i)
      if (policy == name_of(env_.budgets()[i])) return result(episode, [&](const DraftTreeBudget::State&) { return static_cast<int>(i); });
    throw ConfigError(fmt::format("there is no rule '{}' for budgets of tree nodes", policy));
  }

 private:
  struct Sums {
    double tokens = 0, ms = 0, nodes = 0, accepted = 0, rounds = 0;
  };
  static std::string name_of(int64_t budget) { return budget == 0 ? "none" : fmt::format("nodes_{}", budget); }

  template <class Choose>
  void play(int64_t text, const Choose& choose, Sums& sums) const {
    DraftTreeBudget::State s;
    env_.begin(s, {}, text, batch_);
    for (DraftTreeBudget::Round r; !r.over;) {
      r = env_.round(s, choose(s));
      sums.tokens += static_cast<double>(r.tokens), sums.ms += r.ms, sums.nodes += static_cast<double>(r.nodes), sums.accepted += static_cast<double>(r.accepted), sums.rounds += 1;
    }
  }
  template <class Choose>
  EpisodeResult result(int64_t text, const Choose& choose) const {
    Sums sums;
    play(text, choose, sums);
    return {{sums.tokens / sums.ms, sums.ms, sums.tokens / sums.rounds, sums.nodes / sums.rounds, sums.nodes - sums.accepted}, {}, {}};
  }
  // The rate at which choosing by tokens - rate time has that very rate (Dinkelbach 1967).
  double oracle_rate() const {
    double rate = env_.reference_rate(batch_);
    for (int i = 0; i < 4; ++i) {
      Sums sums;
      for (int64_t t = 0; t < num_episodes(); ++t) play(t, [&](const DraftTreeBudget::State& s) { return env_.best_budget(s, rate, true); }, sums);
      rate = sums.tokens / sums.ms;
    }
    return rate;
  }

  DraftTreeBudget env_;
  int64_t batch_;
  double rates_[2] = {};
};

TT_REGISTER(EvaluatorEntry, draft_tree_evaluator,
            {.name = "draft_tree", .make = [](const Config& config, const std::string& file) -> std::unique_ptr<Evaluator> {
               return std::make_unique<DraftTreeEvaluator>(draft_tree_options(config), file);
             }});

}  // namespace
}  // namespace trimtab
