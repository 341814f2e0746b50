// Evaluation of kv_precision's mode pages on texts: every policy reads each piece with the real packed cache, beside one of 16 bits.
#include <algorithm>
#include <cmath>

#include "envs/kv_precision/pages/page_rules.h"
#include "envs/kv_precision/pages/pages.h"

namespace trimtab {
namespace {

class KvPagesEvaluator final : public Evaluator {
 public:
  KvPagesEvaluator(const KvPagesOptions& options, const std::string& file) : options_(options), env_(options_, KvPagesWorld::open(options, {file})) {}

  std::vector<MetricInfo> metrics() const override {
    std::vector<MetricInfo> out = {{"kl_to_16bit", "nat", false}, {"bits_per_element", "bit", false}, {"bytes", "B", false}, {"perplexity", "", false}};
    if (!env_.world().table.page_ns.empty()) out.push_back({"attention_us", "us", false});   // of the next token, by the table's times
    return out;
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned) out.push_back({"learned", "learned"});
    out.push_back({"labels", "oracle"});   // what supervised training learns from, followed exactly
    for (const std::string& name : page_rule_names())
      if (page_rule(name, rule_options(options_.low_bits, 0))) out.push_back({name, name == "best_allocation" ? "oracle" : "baseline"});
    return out;
  }
  int64_t num_episodes() const override { return static_cast<int64_t>(env_.world().pieces.size()); }
  std::string reference() const override { return "uniform"; }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool) const override {
    const double bits = bits_of(episode);
    if (policy == "learned" || policy == "labels") {
      KvPages::State s;
      decide(policy == "learned" ? agents : AgentFactory{}, episode, bits, s);
      return result_of(s.episode->reader);
    }
    const KvPagesWorld& w = env_.world();
    const std::optional<KvPacking> rule = page_rule(policy, rule_options(bits, seed));
    KvSideBySide reader(*w.cached, w.pieces[episode], {&rule->cache, 1}, rule->track, w.truth[episode]);
    while (!reader.over()) {
      if (reader.full()) rule->pack(reader.cache(0));
      reader.read();
    }
    return result_of(reader);
  }

 private:
  PageRuleOptions rule_options(double bits, uint64_t seed) const { return {env_.world().table, env_.world().cache, bits, seed}; }
  // Budgets are spread evenly over the pieces.
  double bits_of(int64_t piece) const {
    return options_.low_bits + (options_.high_bits - options_.low_bits) * (static_cast<double>(piece) + 0.5) / static_cast<double>(num_episodes());
  }

  // Without agents: the labels.
  void decide(const AgentFactory& agents, int64_t piece, double bits, KvPages::State& s) const {
    const auto made = agents ? agents() : decltype(agents()){};
    const ObservationSpec& view = env_.spec().agents[0].observation;
    std::vector<float> context(view.context_size()), items(view.max_items * view.item_size());
    std::vector<uint8_t> mask(view.max_items);
    env_.begin(s, piece, bits);
    for (bool over = false; !over;) {
      float action = 0, terms[3];
      if (agents) {
        env_.observe(s, 0, {context.data(), items.data(), mask.data()});
        made.at("widths")->decide(context.data(), items.data(), mask.data(), view.max_items, &action);
      } else {
        action = static_cast<float>(env_.label(s, 0));
      }
      env_.act(s, 0, &action);
      over = env_.step(s, terms).terminated;
    }
  }

  EpisodeResult result_of(KvSideBySide& reader) const {
    const KvSensitivity& t = env_.world().table;
    const KvScore s = reader.score(0);
    EpisodeResult out{{s.kl, s.bits_per_element, s.bytes, std::exp(s.cross_entropy)}, {}, {}};
    if (!t.page_ns.empty()) out.metrics.push_back(attention_ns(reader.cache(0)) / 1e3);
    return out;
  }
  // Widths that the table has no time for (those of a rule with pairs of its own) count as the next costlier pair's.
  double attention_ns(const KvCache& cache) const {
    const KvSensitivity& t = env_.world().table;
    double sum = 0;
    for (int64_t l = 0; l < t.layers; ++l)
      for (int64_t h = 0; h < t.kv_heads; ++h)
        for (const KvCache::Page& p : cache.pages(l, h)) sum += page_ns(p.bits);
    return sum;
  }
  double page_ns(KvBits bits) const {
    const KvSensitivity& t = env_.world().table;
    if (bits == KvBits{0, 0}) return 0;
    double ns = *std::max_element(t.page_ns.begin(), t.page_ns.end());
    for (size_t p = 0; p < t.pairs.size(); ++p)
      if (t.pairs[p].key >= bits.key && t.pairs[p].value >= bits.value) ns = std::min(ns, t.page_ns[p]);
    return ns;
  }

  KvPagesOptions options_;
  KvPages env_;
};

}  // namespace

std::unique_ptr<Evaluator> make_pages_evaluator(const Config& config, const std::string& file) {
  KvPagesOptions options = kv_pages_options(config);
  options.slack = 0;   // all policies are compared within the same bytes
  return std::make_unique<KvPagesEvaluator>(options, file);
}

}  // namespace trimtab
