#include "envs/draft_length/draft_length.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"

namespace trimtab {
namespace {

constexpr float kMostBits = 20;             // of -ln q, and of entropies: nats
constexpr double kShortMs = 4, kLongMs = 200;   // of the uplink's past that prices go by
constexpr int64_t kReferenceTexts = 64;     // that reference rates are worked out on

}  // namespace

std::vector<int64_t> parse_draft_lengths(const std::string& text, int64_t most) {
  std::vector<int64_t> out;
  for (const std::string& word : split(text, ',')) {
    int64_t value = -1;
    char rest = 0;
    if (std::sscanf(word.c_str(), "%ld%c", &value, &rest) != 1 || value < 0 || value > kMostDrafted)
      throw ConfigError(fmt::format("lengths: '{}' is no number of tokens from 0 to {}; write them as 0,2,4,8", word, kMostDrafted));
    if (!out.empty() && value <= out.back()) throw ConfigError(fmt::format("lengths: {} does not come after {}: list them in rising order", value, out.back()));
    if (value <= most) out.push_back(value);
  }
  if (out.size() < 2) throw ConfigError(fmt::format("lengths '{}' leave no choice within {} drafted tokens: name two or more", text, most));
  return out;
}

void DraftLengthOptions::describe(Fields& f) {
  f.choice("mode", mode, {"replay", "live", "synthetic"},
           "replay: data are recordings of real pairs of models (`trimtab record`); live: a pair decodes prompts, the data; synthetic: made-up drafts whose optimum is known");
  f.choice("decide", decide, {"token", "round"}, "token: stop or go on after every drafted token; round: a number of tokens at the start of each round");
  f.text("lengths", lengths, {.doc = "decide round: the numbers of tokens to choose from, rising"});
  f.integer("most_drafted", most_drafted, {.low = 0, .high = kMostDrafted, .unit = "tokens", .doc = "in a round; 0: as many as were recorded"});
  f.integer("low_batch", low_batch, {.low = 1, .high = 1024, .unit = "sequences", .doc = "smallest batch drawn (by powers of two)"});
  f.integer("high_batch", high_batch, {.low = 1, .high = 1024, .unit = "sequences", .doc = "largest batch drawn"});
  f.flag("see_hidden", see_hidden, "show the draft's hidden state, where it was recorded");
  f.text("head", head, {.doc = "evaluation: an acceptance head (`trimtab fit acceptance`), for the rules specdec_H"});
  f.block("cost", cost, "what drafting and verifying take");
  f.block("uplink", uplink, "edge and cloud: drafted tokens go over a radio channel");
  f.block("synthetic", synthetic, "mode synthetic");
  f.block("live", live, "mode live");
}
void DraftLengthOptions::validate() const {
  if (high_batch < low_batch) throw ConfigError(fmt::format("high_batch = {} is below low_batch = {}", high_batch, low_batch));
  if ((cost.payload_bits > 0) != !uplink.trace.empty())
    throw ConfigError("cost.payload_bits is what goes over uplink.trace: give both, or neither where drafts and target are at one place");
}

std::vector<Feature> draft_features(int64_t most_drafted, int64_t hidden) {
  const float most = static_cast<float>(most_drafted);
  std::vector<Feature> out = {{"depth", "tokens", 0, most},
                              {"log2_batch", "", 0, 10},
                              {"log2_token_price", "", -12, 12},
                              {"log2_token_price_long", "", -12, 12},
                              {"log2_round_price", "", -12, 12},
                              {"last_drafted", "tokens", 0, most},
                              {"last_accepted", "tokens", -1, most},
                              {"acceptance_ema", "", 0, 1},
                              {"last_entropy", "nat", 0, kMostBits},
                              {"log_q", "nat", -kMostBits, 0},
                              {"entropy", "nat", 0, kMostBits},
                              {"top", "", 0, 1},
                              {"margin", "", 0, 1},
                              {"log_q_product", "nat", -kMostBits, 0},
                              {"entropy_sum", "nat", 0, kMostBits},
                              {"log_top_product", "nat", -kMostBits, 0},
                              {"least_top", "", 0, 1}};
  for (int64_t i = 0; i < hidden; ++i) out.push_back({fmt::format("hidden_{}", i), "", -64, 64});
  return out;
}

void show_draft(const DraftState& s, const DraftPrices& prices, int64_t hidden, float* out) {
  float path = 0, entropies = 0, tops = 0, least = 1;
  for (const DraftedToken& t : s.drafted) path += t.logprob, entropies += t.entropy, tops += std::log(std::max(t.top, 1e-6f)), least = std::min(least, t.top);
  const DraftedToken none{0, 0, 0, 1, 1, {}};
  const DraftedToken& last = s.drafted.empty() ? none : s.drafted.back();
  const float values[] = {static_cast<float>(s.drafted.size()), std::log2(static_cast<float>(s.batch)), log_price(prices.token), log_price(prices.token_long), log_price(prices.round),
                          static_cast<float>(s.last_drafted), static_cast<float>(s.last_accepted), s.acceptance, s.last_entropy, std::max(last.logprob, -kMostBits),
                          last.entropy, last.top, last.margin, std::max(path, -kMostBits), std::min(entropies, kMostBits), std::max(tops, -kMostBits), least};
  std::copy(std::begin(values), std::end(values), out);
  float* const state = out + std::size(values);
  for (int64_t i = 0; i < hidden; ++i) state[i] = last.hidden.empty() ? 0 : std::clamp(last.hidden[i], -64.0f, 64.0f);
}

DraftLengthOptions draft_length_options(const Config& config) {
  DraftLengthOptions options;
  config.read(options, {"type"});
  return options;
}

std::unique_ptr<DraftSource> open_drafts(const DraftLengthOptions& options, const std::vector<std::string>& files) {
  const auto& modes = Registry<DraftSourceEntry>::instance();
  if (!modes.has(options.mode)) throw ConfigError(fmt::format("mode {} needs a build with LibTorch (scripts/setup, TRIMTAB_TORCH=ON); replay and synthetic do without", options.mode));
  return modes.get(options.mode, "mode").make(options, files);
}

DraftLength::DraftLength(const DraftLengthOptions& options, std::unique_ptr<DraftSource> source) : options_(options), source_(std::move(source)) {
  most_ = options.most_drafted == 0 ? std::min(kMostDrafted, source_->most_drafted()) : options.most_drafted;
  if (most_ > source_->most_drafted())
    throw ConfigError(fmt::format("most_drafted = {}, but only {} tokens were recorded behind every position: lower it, or record more", most_, source_->most_drafted()));
  hidden_ = options.see_hidden ? source_->hidden_size() : 0;
  lengths_ = parse_draft_lengths(options.lengths, most_);
  if (!options.uplink.trace.empty()) uplink_ = std::make_unique<Uplink>(options.uplink);
  for (int64_t b = batch_bucket(options.low_batch); b <= batch_bucket(options.high_batch); ++b) {
    for (int64_t k = 0; k <= most_; ++k)
      if (const double rate = fixed_rate(k, int64_t{1} << b); rate > reference_[b]) reference_[b] = rate, best_length_[b] = k;
  }
  const ObservationSpec view{draft_features(most_, hidden_), {}, 0};
  spec_ = {.name = "draft_length",
           .agents = {{by_token() ? "stop" : "length", view, {.kind = HeadKind::kCategorical, .size = by_token() ? 2 : static_cast<int>(lengths_.size())}}},
           .critic = view,
           .reward_terms = {"tokens", "time"},
           .time_limit = 0};
}

double DraftLength::reference_rate(int64_t batch) const { return reference_[batch_bucket(batch)]; }
int64_t DraftLength::best_fixed_length(int64_t batch) const { return best_length_[batch_bucket(batch)]; }

double DraftLength::fixed_rate(int64_t drafted, int64_t batch) const {
  double tokens = 0, ms = 0;
  State s;
  for (int64_t text = 0; text < std::min(kReferenceTexts, source_->texts()); ++text) {
    begin(s, {0, static_cast<uint64_t>(text)}, text, batch);
    for (RoundOutcome r; !r.over; tokens += static_cast<double>(r.tokens), ms += r.price_ms) {
      while (s.depth < std::min(drafted, s.most)) draft(s);
      r = finish_round(s);
    }
  }
  return tokens / ms;
}

double DraftLength::controller_rate(AgentFunction& agent, int64_t batch) const {
  double tokens = 0, ms = 0;
  State s;
  for (int64_t text = 0; text < std::min(kReferenceTexts, source_->texts()); ++text) {
    begin(s, {0, static_cast<uint64_t>(text)}, text, batch);
    play(s, agent, [&](const RoundOutcome& r) { tokens += static_cast<double>(r.tokens), ms += r.price_ms; });
  }
  return tokens / ms;
}

void DraftLength::reset(State& s, WorldKey key) const {
  Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
  const int64_t text = draws.below(static_cast<uint32_t>(source_->texts()));
  begin(s, key, text, draw_batch(draws, options_.low_batch, options_.high_batch));
}

void DraftLength::begin(State& s, WorldKey key, int64_t text, int64_t batch) const {
  State fresh;
  fresh.rates = s.rates;
  s = fresh;
  s.place.key = key, s.batch = batch;
  if (uplink_ != nullptr) {
    Draws draws(key.seed, Stream::kChannel, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
    s.link = static_cast<int32_t>(draws.below(static_cast<uint32_t>(uplink_->links()))), s.now_ms = 1000 * draws.uniform();
  }
  source_->begin(s.place, text);
  s.most = std::clamp<int64_t>(source_->left(s.place) - 1, 0, most_);
}

double DraftLength::rate(const State& s) const { return s.rates.rate(s.batch, reference_rate(s.batch)); }
void DraftLength::learn_rate(State& s, const RoundOutcome& r) const {
  s.rates.learn(s.batch, static_cast<double>(r.tokens), r.price_ms, reference_rate(s.batch), round_price(0, s.batch));
}

DraftPrices DraftLength::prices(const State& s) const {
  const double reference = reference_[batch_bucket(s.batch)];
  return {static_cast<float>(reference * token_price(s)), static_cast<float>(reference * token_price_at(s, long_rate(s))), static_cast<float>(reference * round_price(0, s.batch))};
}

double DraftLength::token_energy(double send_ms) const {
  return uplink_ == nullptr ? 0 : options_.uplink.draft_mj + std::pow(10, options_.uplink.tx_power_dbm / 10) / 1e3 * send_ms;   // W ms are mJ
}

double DraftLength::long_rate(const State& s) const {
  return uplink_ == nullptr ? 0 : options_.uplink.aware ? uplink_->rate_lately(s.link, s.now_ms, kLongMs) : uplink_->mean_rate();
}

double DraftLength::token_price(const State& s) const {
  return token_price_at(s, uplink_ == nullptr ? 0 : options_.uplink.aware ? uplink_->rate_lately(s.link, s.now_ms, kShortMs) : uplink_->mean_rate());
}

double DraftLength::token_price_at(const State& s, double rate) const {
  const double draft_ms = options_.cost.draft_ms(s.batch);
  if (uplink_ == nullptr) return draft_ms;
  const double send_ms = options_.cost.payload_bits / rate;
  return draft_ms + send_ms + options_.uplink.energy_price * token_energy(send_ms);
}

double DraftLength::round_price(int64_t drafted, int64_t batch) const {
  const double ms = options_.cost.round_ms(drafted, batch);
  return ms + options_.uplink.energy_price * options_.uplink.idle_w * ms;
}

void DraftLength::draft(State& s) const {
  ++s.depth;
  double ms = options_.cost.draft_ms(s.batch), mj = 0;
  if (uplink_ != nullptr) {
    const double send_ms = uplink_->send_ms(s.link, s.now_ms + ms, options_.cost.payload_bits);
    mj = token_energy(send_ms), ms += send_ms;
  }
  s.now_ms += ms, s.round_ms += ms, s.round_mj += mj;
}

DraftState DraftLength::view(const State& s, std::vector<DraftedToken>& drafted) const {
  drafted.clear();
  for (int64_t d = 0; d < s.depth; ++d) drafted.push_back(source_->drafted(s.place, d));
  return {.sequence = s.place.text, .batch = s.batch, .committed = s.place.position, .most = s.most, .last_drafted = s.last_drafted, .last_accepted = s.last_accepted,
          .acceptance = s.acceptance, .token_ms = token_price(s), .last_entropy = source_->last_entropy(s.place), .drafted = drafted};
}

void DraftLength::observe(const State& s, int, ObservationRows out) const {
  static thread_local std::vector<DraftedToken> drafted;
  show_draft(view(s, drafted), prices(s), hidden_, out.context);
}

void DraftLength::act(State& s, int, const float* action) const { s.action = static_cast<int32_t>(action[0]); }

DraftLength::RoundOutcome DraftLength::finish_round(State& s) const {
  RoundOutcome r;
  r.drafted = s.depth;
  while (r.accepted < r.drafted && source_->look(s.place, r.accepted).accepted) ++r.accepted;
  r.tokens = source_->committed(s.place, r.accepted + 1);
  const double wait_ms = options_.cost.round_ms(r.drafted, s.batch);
  r.ms = s.round_ms + wait_ms, r.mj = s.round_mj + options_.uplink.idle_w * wait_ms, r.price_ms = r.ms + options_.uplink.energy_price * r.mj;
  s.now_ms += wait_ms, s.round_ms = s.round_mj = 0;
  s.acceptance = acceptance_after(s.acceptance, r.drafted, r.accepted);
  s.last_drafted = r.drafted, s.last_accepted = r.accepted, s.depth = 0;
  source_->advance(s.place, r.accepted + 1);
  r.over = source_->left(s.place) <= 0;
  s.most = std::clamp<int64_t>(source_->left(s.place) - 1, 0, most_);
  s.episode_tokens += static_cast<double>(r.tokens), s.episode_ms += r.ms, s.episode_mj += r.mj;
  return r;
}

std::optional<DraftLength::RoundOutcome> DraftLength::drafts_or_finishes(State& s) const {
  if (by_token()) {
    if (s.action == 1 && s.depth < s.most) {
      draft(s);
      return std::nullopt;
    }
  } else {
    while (s.depth < std::min(lengths_[s.action], s.most)) draft(s);
  }
  return finish_round(s);
}

StepOutcome DraftLength::step(State& s, float* terms) const {
  const double lambda = rate(s), before = priced(s);
  const std::optional<RoundOutcome> r = drafts_or_finishes(s);
  if (!r) {
    terms[0] = 0, terms[1] = static_cast<float>(-lambda * (priced(s) - before));
    return {};
  }
  learn_rate(s, *r);
  terms[0] = static_cast<float>(r->tokens), terms[1] = static_cast<float>(-lambda * (r->price_ms - before));   // drafts of steps before are paid
  return {.terminated = r->over};
}

int64_t DraftLength::best_length(const State& s, double rate, Known known) const {
  const double token_ms = token_price(s);
  double alive = 1, gain = 0, best = 0;
  for (int64_t d = 0; d < s.depth; ++d) alive *= source_->look(s.place, d).accept;
  int64_t length = s.depth;
  for (int64_t d = s.depth; d < s.most; ++d) {
    const DraftCandidate c = source_->look(s.place, d);
    alive *= known == Known::kAlphas ? c.alpha : known == Known::kAccepts ? c.accept : c.accepted;
    gain += alive - rate * (token_ms + round_price(d + 1, s.batch) - round_price(d, s.batch));
    if (gain > best) best = gain, length = d + 1;
  }
  return length;
}

int DraftLength::label(const State& s, int) const {
  const int64_t best_depth = best_length(s, rate(s), Known::kAlphas);
  if (by_token()) return best_depth > s.depth;
  int nearest = 0;
  for (size_t i = 0; i < lengths_.size(); ++i)
    if (lengths_[i] <= best_depth) nearest = static_cast<int>(i);
  return nearest;
}

TT_REGISTER(EnvironmentEntry, draft_length,
            {.name = "draft_length",
             .doc = "how many tokens to draft in speculative decoding",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               const DraftLengthOptions options = draft_length_options(config);
               return std::make_unique<LightBatch<DraftLength>>(std::make_shared<DraftLength>(options, open_drafts(options, data.files)), size);
             },
             .help = [] { return help_of<DraftLengthOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(draft_length_options(config)); },
             .preferred_batch = 64});

}  // namespace trimtab
