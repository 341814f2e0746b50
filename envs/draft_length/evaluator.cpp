// Evaluation of draft_length on a recording, or on prompts that a live pair decodes: every text decoded with every rule, with the learned controller, and with oracles that know
// what drafts are worth. All meet the same texts, drafts and coins.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "envs/draft_length/draft_length.h"
#include "envs/draft_length/results_in_order.h"
#include "envs/draft_length/rules.h"

namespace trimtab {
namespace {

using Known = DraftLength::Known;
const std::map<std::string, Known> kOracles = {{"alphas_known", Known::kAlphas}, {"accepts_known", Known::kAccepts}, {"outcomes_known", Known::kOutcomes}};

struct Tally {
  double tokens = 0, ms = 0, price_ms = 0, mj = 0, drafted = 0, accepted = 0, rounds = 0;
  std::vector<double> gaps;   // ms between tokens, of every token
  void add(const DraftLength::RoundOutcome& r) {
    tokens += static_cast<double>(r.tokens), ms += r.ms, price_ms += r.price_ms, mj += r.mj, drafted += static_cast<double>(r.drafted), accepted += static_cast<double>(r.accepted), rounds += 1;
    gaps.push_back(r.ms);
    gaps.insert(gaps.end(), static_cast<size_t>(std::max<int64_t>(0, r.tokens - 1)), 0.0);   // they come together
  }
  EpisodeResult result() {
    std::sort(gaps.begin(), gaps.end());
    const double p95 = gaps[std::min(gaps.size() - 1, static_cast<size_t>(0.95 * static_cast<double>(gaps.size())))];
    return {{tokens / ms, ms, price_ms, tokens / rounds, drafted > 0 ? accepted / drafted : 0, drafted - accepted, rounds / tokens, p95, mj / tokens}, {}, {}};
  }
};

class DraftLengthEvaluator final : public Evaluator {
 public:
  DraftLengthEvaluator(const DraftLengthOptions& options, const std::string& file) : env_(options, open_drafts(options, {file})), batch_(options.low_batch) {
    if (options.low_batch != options.high_batch)
      throw ConfigError(fmt::format("evaluation needs one batch size, not {} to {}: give env.low_batch=N env.high_batch=N", options.low_batch, options.high_batch));
    if (options.mode == "synthetic") throw ConfigError("mode synthetic has no texts to evaluate on: its optimum is known (envs/draft_length/optimum.h)");
    if (!options.head.empty()) head_ = read_head(options.head, file);
    for (const auto& [name, known] : kOracles) rates_[name] = best_rate(known);
  }

  std::vector<MetricInfo> metrics() const override {
    return {{"tokens_per_ms", "1/ms", true}, {"ms", "ms", false}, {"price", "ms", false}, {"accepted_length", "tokens", true}, {"acceptance", "", true}, {"wasted_drafts", "tokens", false},
            {"target_passes_per_token", "", false}, {"p95_gap_ms", "ms", false}, {"energy_per_token", "mJ", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned) out.push_back({"learned", "learned"});
    for (const std::string& name : draft_rule_names(env_.most_drafted(), head_ != nullptr)) out.push_back({name, "baseline"});
    for (const auto& [name, known] : kOracles) out.push_back({name, "oracle"});
    return out;
  }
  int64_t num_episodes() const override { return env_.source().texts(); }
  std::string reference() const override { return fmt::format("fixed_{}", std::max<int64_t>(1, env_.best_fixed_length(batch_))); }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool) const override {
    if (policy == "learned") return run_learned(agents, episode, seed);
    if (const auto oracle = kOracles.find(policy); oracle != kOracles.end()) return run_oracle(oracle->second, rates_.at(policy), episode, seed).result();
    if (learns_while_running(policy)) return run_in_order(policy, seed)[episode];
    return run_rule(*make_draft_rule(policy, rule_options(seed)), episode, seed);
  }

 private:
  DraftRuleOptions rule_options(uint64_t seed) const { return {env_.most_drafted(), env_.options().cost, batch_, env_.reference_rate(batch_), seed, head_}; }

  std::shared_ptr<const AcceptanceHead> read_head(const std::string& name, const std::string& file) const {
    auto head = std::make_shared<const AcceptanceHead>(AcceptanceHead::load(name));
    if (head->shape().hidden != env_.source().hidden_size())
      throw DataError(fmt::format("{} reads hidden states of {} numbers, but {} holds {}: fit a head on recordings of the same draft model, with their hidden states", name,
                                  head->shape().hidden, file, env_.source().hidden_size()));
    return head;
  }

  DraftLength::State start(int64_t episode, uint64_t seed) const {
    DraftLength::State s;
    env_.begin(s, {seed, static_cast<uint64_t>(episode)}, episode, batch_);
    return s;
  }

  EpisodeResult run_rule(DraftControl& rule, int64_t episode, uint64_t seed) const {
    DraftLength::State s = start(episode, seed);
    std::vector<DraftedToken> drafted;
    Tally tally;
    for (bool over = false; !over;) {
      const int64_t most = std::min(s.most, rule.limit(env_.view(s, drafted)));
      while (s.depth < most && rule.go_on(env_.view(s, drafted))) env_.draft(s);
      const DraftState before = env_.view(s, drafted);
      const DraftLength::RoundOutcome r = env_.finish_round(s);
      rule.learn(before, r.accepted);
      tally.add(r), over = r.over;
    }
    return tally.result();
  }

  const std::vector<EpisodeResult>& run_in_order(const std::string& policy, uint64_t seed) const {
    return in_order_.of(policy, seed, [&] {
      const auto rule = make_draft_rule(policy, rule_options(seed));
      std::vector<EpisodeResult> out;
      for (int64_t e = 0; e < num_episodes(); ++e) out.push_back(run_rule(*rule, e, seed));
      return out;
    });
  }

  EpisodeResult run_learned(const AgentFactory& agents, int64_t episode, uint64_t seed) const {
    const auto made = agents();
    AgentFunction& agent = *made.begin()->second;
    DraftLength::State s = start(episode, seed);
    Tally tally;
    env_.play(s, agent, [&](const DraftLength::RoundOutcome& r) { tally.add(r); });
    return tally.result();
  }

  // The length of most gain at a rate, given what is known.
  Tally run_oracle(Known known, double rate, int64_t episode, uint64_t seed) const {
    DraftLength::State s = start(episode, seed);
    Tally tally;
    for (bool over = false; !over;) {
      const int64_t length = env_.best_length(s, rate, known);
      while (s.depth < length) env_.draft(s);
      const DraftLength::RoundOutcome r = env_.finish_round(s);
      tally.add(r), over = r.over;
    }
    return tally;
  }

  // The rate at which an oracle that maximises tokens - rate time has that very rate (Dinkelbach).
  double best_rate(Known known) const {
    double rate = env_.reference_rate(batch_);
    for (int i = 0; i < 4; ++i) {
      double tokens = 0, ms = 0;
      for (int64_t e = 0; e < num_episodes(); ++e) {
        const Tally t = run_oracle(known, rate, e, 1);
        tokens += t.tokens, ms += t.price_ms;
      }
      rate = tokens / ms;
    }
    return rate;
  }

  DraftLength env_;
  int64_t batch_;
  std::shared_ptr<const AcceptanceHead> head_;   // null: none given
  std::map<std::string, double> rates_;
  mutable ResultsInOrder in_order_;
};

TT_REGISTER(EvaluatorEntry, draft_length_evaluator,
            {.name = "draft_length", .make = [](const Config& config, const std::string& file) -> std::unique_ptr<Evaluator> {
               return std::make_unique<DraftLengthEvaluator>(draft_length_options(config), file);
             }});

}  // namespace
}  // namespace trimtab
