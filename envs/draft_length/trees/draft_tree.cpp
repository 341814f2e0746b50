#include "envs/draft_length/trees/draft_tree.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr float kNewest = 0.1f;   // of the average of accepted tokens

std::vector<TokenText> made_up(const SyntheticTexts& o) {
  std::vector<TokenText> out;
  for (int64_t t = 0; t < o.texts; ++t) {
    Draws draws(1, Stream::kWorld, static_cast<uint32_t>(t), 91);
    TokenText& text = out.emplace_back();
    while (static_cast<int64_t>(text.tokens.size()) < o.length) {
      if (draws.uniform() < o.copied) {
        const uint32_t phrase = draws.below(static_cast<uint32_t>(o.phrases));
        Draws words(2, Stream::kWorld, phrase, 92);
        for (uint32_t n = 3 + words.below(8); n > 0; --n) text.tokens.push_back(static_cast<int32_t>(words.below(24)));
      } else {
        text.tokens.push_back(static_cast<int32_t>(draws.below(24)));
      }
    }
    text.tokens.resize(o.length);
    text.entropy.assign(o.length, 1);
  }
  return out;
}

std::vector<Feature> features_of(const std::vector<int64_t>& budgets) {
  std::vector<Feature> out = {{"log2_batch", "", 0, 10}, {"node_price", "tokens", -12, 12}, {"round_price", "tokens", -12, 12}, {"last_nodes", "tokens", 0, 256},
                              {"last_accepted", "tokens", -1, 256}, {"average_accepted", "tokens", 0, 256}, {"last_entropy", "nat", 0, 20}};
  for (const int64_t b : budgets) {
    if (b == 0) continue;
    out.push_back({fmt::format("nodes_{}", b), "tokens", 0, 256});
    out.push_back({fmt::format("expected_{}", b), "tokens", 0, 256});
  }
  return out;
}

}  // namespace

void SyntheticTexts::describe(Fields& f) {
  f.integer("texts", texts, {.low = 1, .high = 1e6, .doc = "made up"});
  f.integer("length", length, {.low = 1, .high = 1e6, .unit = "tokens", .doc = "of each"});
  f.integer("phrases", phrases, {.low = 1, .high = 1e6, .doc = "that come again"});
  f.number("copied", copied, {.low = 0, .high = 1, .doc = "probability that a phrase comes next"});
}

// A tree's nodes are nearly free to make and cost the target's time; a target of few tokens is bound by reading its weights.
DraftTreeOptions::DraftTreeOptions() {
  cost.draft = 0.005, cost.verify = 0.36, cost.verify_token = 0.01, cost.verify_least = 1;
  drafter.suffix.shape = "tree", drafter.suffix.offset = 64;   // budgets decide, not the length of the match
}
void DraftTreeOptions::describe(Fields& f) {
  f.choice("mode", mode, {"replay", "synthetic"}, "replay: data are recordings (`trimtab record`), of which the texts are read; synthetic: made-up texts that repeat phrases");
  f.text("budgets", budgets, {.doc = "numbers of nodes to choose from, rising, up to 40"});
  f.integer("low_batch", low_batch, {.low = 1, .high = 1024, .unit = "sequences", .doc = "smallest batch drawn (by powers of two)"});
  f.integer("high_batch", high_batch, {.low = 1, .high = 1024, .unit = "sequences", .doc = "largest batch drawn"});
  f.block("cost", cost, "what a round takes: `draft` is that of a tree, however many its nodes");
  f.block("drafter", drafter, "who drafts: suffix or prompt_lookup");
  f.block("synthetic", synthetic, "mode synthetic");
}
void DraftTreeOptions::validate() const {
  if (high_batch < low_batch) throw ConfigError(fmt::format("high_batch = {} is below low_batch = {}", high_batch, low_batch));
  if (drafter.method == "token_recycling") throw ConfigError("drafter.method token_recycling learns from the target's likeliest tokens, which recordings do not have: use suffix or prompt_lookup");
  if (cost.payload_bits > 0) throw ConfigError("cost.payload_bits: trees are drafted beside the target; for an uplink use env.type draft_length");
}
DraftTreeOptions draft_tree_options(const Config& config) {
  DraftTreeOptions options;
  config.read(options, {"type"});
  return options;
}

DraftTreeBudget::DraftTreeBudget(const DraftTreeOptions& options, std::vector<TokenText> texts)
    : options_(options), budgets_(parse_draft_lengths(options.budgets, kMostDrafted)), table_(std::move(texts), options.drafter, budgets_) {
  for (int b = batch_bucket(options.low_batch); b <= batch_bucket(options.high_batch); ++b)
    for (int i = 0; i < static_cast<int>(budgets_.size()); ++i) {
      double tokens = 0, ms = 0;
      State s;
      for (int64_t t = 0; t < table_.texts(); ++t) {
        begin(s, {}, t, int64_t{1} << b);
        for (Round r; !r.over; tokens += static_cast<double>(r.tokens), ms += r.ms) r = round(s, i);
      }
      if (tokens / ms > reference_[b]) reference_[b] = tokens / ms, best_[b] = i;
    }
  const ObservationSpec view{features_of(budgets_), {}, 0};
  spec_ = {.name = "draft_tree",
           .agents = {{"budget", view, {.kind = HeadKind::kCategorical, .size = static_cast<int>(budgets_.size())}}},
           .critic = view,
           .reward_terms = {"tokens", "time"},
           .time_limit = 0};
}

double DraftTreeBudget::reference_rate(int64_t batch) const { return reference_[batch_bucket(batch)]; }
int DraftTreeBudget::best_fixed(int64_t batch) const { return best_[batch_bucket(batch)]; }
double DraftTreeBudget::round_ms(int64_t nodes, int64_t batch) const { return (nodes > 0 ? options_.cost.draft_ms(batch) : 0) + options_.cost.round_ms(nodes, batch); }

double DraftTreeBudget::rate(const State& s) const { return s.rates.rate(s.batch, reference_rate(s.batch)); }

void DraftTreeBudget::reset(State& s, WorldKey key) const {
  Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
  const int64_t text = draws.below(static_cast<uint32_t>(table_.texts()));
  begin(s, key, text, draw_batch(draws, options_.low_batch, options_.high_batch));
}

void DraftTreeBudget::begin(State& s, WorldKey key, int64_t text, int64_t batch) const {
  State fresh;
  fresh.rates = s.rates;
  s = fresh;
  s.key = key, s.text = text, s.batch = batch;
}

void DraftTreeBudget::observe(const State& s, int, ObservationRows out) const {
  const double reference = reference_[batch_bucket(s.batch)];
  float* to = out.context;
  for (const float v : {static_cast<float>(std::bit_width(static_cast<uint64_t>(s.batch)) - 1), static_cast<float>(log_price(reference * options_.cost.verify_token * static_cast<double>(s.batch))),
                        static_cast<float>(log_price(reference * round_ms(0, s.batch))), static_cast<float>(s.last_nodes), static_cast<float>(s.last_accepted), s.average,
                        std::min(20.0f, table_.entropy_before(s.text, s.position))})
    *to++ = v;
  const std::span<const TreeOutcome> trees = s.position < table_.length(s.text) ? table_.at(s.text, s.position) : std::span<const TreeOutcome>();
  for (size_t i = 0; i < budgets_.size(); ++i) {
    if (budgets_[i] == 0) continue;
    *to++ = trees.empty() ? 0 : static_cast<float>(trees[i].nodes);
    *to++ = trees.empty() ? 0 : trees[i].expected;
  }
}

DraftTreeBudget::Round DraftTreeBudget::round(State& s, int budget) const {
  const TreeOutcome& o = table_.at(s.text, s.position)[budget];
  Round r;
  r.nodes = o.nodes, r.accepted = o.accepted;
  r.tokens = std::min<int64_t>(o.accepted + 1, table_.length(s.text) - s.position);
  r.ms = round_ms(r.nodes, s.batch);
  s.position += r.tokens, s.last_nodes = r.nodes, s.last_accepted = r.accepted, s.average += kNewest * (static_cast<float>(r.accepted) - s.average);
  s.episode_tokens += static_cast<double>(r.tokens), s.episode_ms += r.ms;
  r.over = s.position >= table_.length(s.text);
  return r;
}

StepOutcome DraftTreeBudget::step(State& s, float* terms) const {
  const double lambda = rate(s);
  const Round r = round(s, s.action);
  s.rates.learn(s.batch, static_cast<double>(r.tokens), r.ms, reference_rate(s.batch), round_ms(0, s.batch));
  terms[0] = static_cast<float>(r.tokens), terms[1] = static_cast<float>(-lambda * r.ms);
  return {.terminated = r.over};
}

int DraftTreeBudget::best_budget(const State& s, double rate, bool known) const {
  const std::span<const TreeOutcome> trees = table_.at(s.text, s.position);
  int best = 0;
  double most = -1e300;
  for (size_t i = 0; i < trees.size(); ++i) {
    const double gain = (known ? trees[i].accepted : trees[i].expected) - rate * round_ms(trees[i].nodes, s.batch);
    if (gain > most) most = gain, best = static_cast<int>(i);
  }
  return best;
}
int DraftTreeBudget::label(const State& s, int) const { return best_budget(s, rate(s), true); }

TT_REGISTER(EnvironmentEntry, draft_tree,
            {.name = "draft_tree",
             .doc = "how many nodes of a token tree to verify, of a drafter without weights",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               const DraftTreeOptions o = draft_tree_options(config);
               return std::make_unique<LightBatch<DraftTreeBudget>>(std::make_shared<DraftTreeBudget>(o, o.mode == "synthetic" ? made_up(o.synthetic) : read_token_texts(data.files)), size);
             },
             .help = [] { return help_of<DraftTreeOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(draft_tree_options(config)); },
             .preferred_batch = 64});

}  // namespace trimtab
