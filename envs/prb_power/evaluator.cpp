// Evaluation of prb_power: every baseline and every combination of learned agents on the drops of one trace file, each drop
// run whole, with the same channel, arrivals and acknowledgement draws for every policy.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/error.h"
#include "envs/evaluation.h"
#include "envs/prb_power/cell.h"
#include "envs/prb_power/data.h"

namespace trimtab {
namespace {

const char* const kPowerSuffixes[] = {"", "_fair_power", "_water_power", "_la_power", "_prior_power"};  // in the order of PowerRule
constexpr int kNumPowerRules = std::size(kPowerSuffixes);

struct Composition {
  bool learned_prb = false, learned_power = false;
  PrbRule prb;
  PowerRule power = PowerRule::kEqual;
};

// "joint", "prb_only", "power_only", "pf_equal", "gpf_2", "max_ci_la_power", ...
Composition compose(const std::string& name) {
  if (name == "joint") return {.learned_prb = true, .learned_power = true, .prb = {}};
  if (name == "prb_only") return {.learned_prb = true, .prb = {}};
  if (name == "power_only") return {.learned_power = true, .prb = prb_rule("pf")};
  std::string rule = name;
  Composition c;
  if (rule.ends_with("_equal")) rule.resize(rule.size() - 6);
  for (int k = 1; k < kNumPowerRules; ++k) {
    const std::string suffix = kPowerSuffixes[k];
    if (!rule.ends_with(suffix)) continue;
    rule.resize(rule.size() - suffix.size());
    c.power = static_cast<PowerRule>(k);
  }
  c.prb = prb_rule(rule);
  return c;
}

std::string policy_name(const std::string& rule, PowerRule power) {
  if (power == PowerRule::kEqual) return rule.starts_with("gpf_") ? rule : rule + "_equal";
  return rule + kPowerSuffixes[static_cast<int>(power)];
}

class PrbPowerEvaluator final : public Evaluator {
 public:
  PrbPowerEvaluator(PrbPowerOptions options, const std::string& file) {
    std::vector<std::shared_ptr<radio::TraceSource>> sources = open_sources(options, {file});
    const int64_t period = options.control_period_slots;
    learns_prb_ = options.prb == "learned";
    learns_power_ = options.power == "learned";
    options.prb = options.power = "learned";  // the cell's own rules are not used: policies are composed by name
    options.episode_slots = period;  // for the constructor's check; the real length follows from the trace
    const int lead = Cell(options, sources).lead_slots();
    options.episode_slots = (sources[0]->info().slots_per_drop - lead) / period * period;
    num_episodes_ = std::min<int64_t>(sources[0]->info().num_drops, 1'000'000);
    cell_ = std::make_unique<Cell>(std::move(options), std::move(sources));
  }

  std::vector<MetricInfo> metrics() const override {
    return {{"cell_throughput_mbps", "Mbit/s", true}, {"jain", "", true},           {"jain_smoothed", "", true},
            {"user_throughput_mbps", "Mbit/s", true}, {"p5_throughput_mbps", "Mbit/s", true}, {"bler", "", false},
            {"retransmissions", "", false},           {"lost_blocks", "", false},   {"prb_use", "", false},
            {"power_use", "", false},                 {"delay_p50_ms", "ms", false}, {"delay_p95_ms", "ms", false}};
  }
  std::vector<EvaluatedPolicy> policies(bool learned) const override {
    std::vector<EvaluatedPolicy> out;
    if (learned && learns_prb_ && learns_power_) out.push_back({"joint", "learned"});
    if (learned && learns_prb_) out.push_back({"prb_only", "learned"});
    if (learned && learns_power_) out.push_back({"power_only", "learned"});
    for (const std::string& rule : prb_rule_names())
      for (int k = 0; k < kNumPowerRules; ++k) out.push_back({policy_name(rule, static_cast<PowerRule>(k)), "baseline"});
    return out;
  }
  int64_t num_episodes() const override { return num_episodes_; }
  std::string reference() const override { return "pf_equal"; }
  std::vector<Frontier> frontiers() const override {
    return {{"equal_power", "jain", "cell_throughput_mbps", sweep(PowerRule::kEqual)},
            {"la_power", "jain", "cell_throughput_mbps", sweep(PowerRule::kLadder)},
            {"prior_power", "jain", "cell_throughput_mbps", sweep(PowerRule::kPrior)}};
  }

  EpisodeResult run(const std::string& policy, const AgentFactory& agents, int64_t episode, uint64_t seed, bool with_series) const override {
    const Composition c = compose(policy);
    std::map<std::string, std::unique_ptr<AgentFunction>> functions;
    if (c.learned_prb || c.learned_power) functions = agents();
    AgentFunction* prb = c.learned_prb ? find(functions, "prb", policy) : nullptr;
    AgentFunction* power = c.learned_power ? find(functions, "power", policy) : nullptr;
    Cell::State s;
    cell_->reset_to(s, {seed, static_cast<uint64_t>(episode)}, 0, static_cast<int>(episode), cell_->lead_slots());
    EpisodeResult result;
    const int64_t slots = cell_->options().episode_slots;
    for (int64_t t = 0; t < slots; ++t) {
      decide(s, c, prb, power, t % cell_->options().control_period_slots == 0);
      cell_->transmit(s);
      if (with_series) record(s, result.series);
    }
    summarise(s, result);
    return result;
  }

 private:
  static AgentFunction* find(const std::map<std::string, std::unique_ptr<AgentFunction>>& functions, const char* name,
                             const std::string& policy) {
    const auto it = functions.find(name);
    if (it == functions.end()) throw ConfigError(fmt::format("policy '{}' needs a learned agent '{}', which this run does not have", policy, name));
    return it->second.get();
  }

  static std::vector<std::string> sweep(PowerRule power) {
    std::vector<std::pair<double, std::string>> ordered;
    for (const std::string& rule : prb_rule_names())
      if (const PrbRule r = prb_rule(rule); r.kind == PrbRule::Kind::kGeneralisedFair) ordered.emplace_back(r.exponent, policy_name(rule, power));
    std::sort(ordered.begin(), ordered.end());
    std::vector<std::string> names;
    for (const auto& [exponent, name] : ordered) names.push_back(name);
    return names;
  }

  void decide(Cell::State& s, const Composition& c, AgentFunction* prb, AgentFunction* power, bool due) const {
    if (prb == nullptr) {
      cell_->schedule(s, c.prb);
    } else {
      if (due) ask(s, Cell::kPrbAgent, *prb, s.held_shares);
      cell_->assign_shares(s, s.held_shares.data());
    }
    if (power == nullptr) {
      cell_->split_power(s, c.power);
    } else {
      if (due) ask(s, Cell::kPowerAgent, *power, s.held_power);
      cell_->split_power_by_shares(s, s.held_power.data());
    }
  }

  void ask(const Cell::State& s, int agent, AgentFunction& function, std::vector<float>& shares) const {
    const ObservationSpec& o = cell_->spec().agents[agent].observation;
    thread_local std::vector<float> context, items;
    thread_local std::vector<uint8_t> mask;
    context.assign(o.context_size(), 0);
    items.assign(static_cast<size_t>(o.max_items) * o.item_size(), 0);
    mask.assign(o.max_items, 0);
    cell_->observe(s, agent, {context.data(), items.data(), mask.data()});
    function.decide(context.data(), items.data(), mask.data(), o.max_items, shares.data());
  }

  void record(const Cell::State& s, std::map<std::string, std::vector<float>>& series) const {
    double sum = 0, squares = 0, power = 0;
    for (const float x : s.average) sum += x, squares += static_cast<double>(x) * x;
    for (const float p : s.prb_power_w) power += p;
    series["smoothed_throughput_mbps"].push_back(static_cast<float>(sum / cell_->slot_s() * 1e-6));
    series["jain_smoothed"].push_back(squares > 0 ? static_cast<float>(sum * sum / (s.average.size() * squares)) : 1.0f);
  }

  double delay_quantile(const std::vector<float>& histogram, double q) const {
    double total = 0, below = 0;
    for (const float count : histogram) total += count;
    for (size_t k = 0; k < histogram.size(); ++k)
      if (below += histogram[k]; total > 0 && below >= q * total) return static_cast<double>(k) * cell_->slot_s() * 1e3;
    return 0;
  }

  void summarise(const Cell::State& s, EpisodeResult& result) const {
    const double seconds = s.totals.slots * cell_->slot_s(), users = static_cast<double>(s.total_bits.size());
    for (const double bits : s.total_bits) result.samples.push_back(bits / seconds * 1e-6);
    std::vector<double> sorted = result.samples;
    std::sort(sorted.begin(), sorted.end());
    const double at = 0.05 * (users - 1);
    const auto low = static_cast<size_t>(at);
    const double p5 = sorted[low] + (at - static_cast<double>(low)) * (sorted[std::min(low + 1, sorted.size() - 1)] - sorted[low]);
    const Cell::Totals& t = s.totals;
    const double throughput = t.bits / seconds * 1e-6, blocks = std::max(t.blocks, 1.0);
    result.metrics = {throughput, cell_->jain(s.total_bits), t.jain_smoothed / t.slots, throughput / users, p5,
                      t.first_errors / std::max(t.first_blocks, 1.0), t.retransmissions / blocks, t.lost_blocks / blocks,
                      t.prbs_used / t.slots, t.power_w / t.slots, delay_quantile(s.delays, 0.5), delay_quantile(s.delays, 0.95)};
  }

  std::unique_ptr<Cell> cell_;
  int64_t num_episodes_ = 0;
  bool learns_prb_ = true, learns_power_ = true;
};

TT_REGISTER(EvaluatorEntry, prb_power_evaluator, {
    .name = "prb_power",
    .make = [](const Config& config, const std::string& file) -> std::unique_ptr<Evaluator> {
      PrbPowerOptions options;
      config.read(options, {"type"});
      return std::make_unique<PrbPowerEvaluator>(std::move(options), file);
    }});

}  // namespace
}  // namespace trimtab
