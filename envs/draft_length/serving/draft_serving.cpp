#include "envs/draft_length/serving/draft_serving.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "envs/draft_length/serving/arrivals.h"

namespace trimtab {
namespace {

constexpr int64_t kReferenceTexts = 128;   // that reference rates are worked out on
constexpr int64_t kRecentArrivals = 8;
constexpr float kMostEntropy = 20;        // nat
constexpr float kServerAverage = 0.995f;  // of acceptance, per judged token

float log_between(double value, float low, float high) { return std::clamp(static_cast<float>(std::log2(std::max(value, 1e-9))), low, high); }

Draws world_draws(WorldKey key, int64_t request) {
  return Draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32), static_cast<uint32_t>(request));
}

std::vector<Feature> features(int64_t most_drafted) {
  const float most = static_cast<float>(most_drafted);
  return {{"log2_batch", "", 0, 10},         {"log2_queue", "", 0, 20},        {"acceptance", "", 0, 1},         {"acceptance_spread", "", 0, 1},       {"last_accepted", "tokens", -1, most},
          {"last_entropy", "nat", 0, kMostEntropy}, {"log2_token_price", "", -12, 12}, {"log2_token_price_long", "", -12, 12}, {"log2_round_price", "", -12, 12}, {"ending", "", 0, 1},
          {"log2_arrivals", "", -12, 12}};
}

}  // namespace

void DraftServingOptions::describe(Fields& f) {
  f.choice("mode", mode, {"replay", "synthetic"}, "replay: data are recordings of real pairs of models (`trimtab record`); synthetic: made-up drafts");
  f.text("lengths", lengths, {.doc = "the numbers of tokens to choose from, rising"});
  f.choice("objective", objective, {"time", "goodput"}, "time: mean time in the system; goodput: share of requests answered within slo_ms_per_token");
  f.flag("shaping", shaping, "objective time: reward tokens where they are committed, in a term that sums to the same for every policy");
  f.integer("requests", requests, {.low = 1, .high = 1 << 20, .doc = "of an episode"});
  f.integer("max_batch", max_batch, {.low = 1, .high = 1024, .unit = "sequences", .doc = "decoded together at most; the others wait"});
  f.number("low_rate", low_rate, {.low = 1e-6, .high = 1e6, .unit = "1/s", .doc = "lowest rate of arrivals drawn for an episode (log-uniform)"});
  f.number("high_rate", high_rate, {.low = 1e-6, .high = 1e6, .unit = "1/s", .doc = "highest rate of arrivals"});
  f.number("cv", cv, {.low = 0, .high = 10, .doc = "coefficient of variation of the gaps between arrivals: 1 is Poisson, above come bursts"});
  f.number("slo_ms_per_token", slo_ms_per_token, {.low = 1e-6, .high = 1e6, .unit = "ms", .doc = "a request is in time when it is answered within this times its tokens"});
  f.integer("episodes", episodes, {.low = 1, .high = 1 << 20, .doc = "of an evaluation: sequences of arrivals"});
  f.block("cost", cost, "what drafting and verifying take");
  f.block("synthetic", synthetic, "mode synthetic");
}
void DraftServingOptions::validate() const {
  if (high_rate < low_rate) throw ConfigError(fmt::format("high_rate = {} is below low_rate = {}", high_rate, low_rate));
  if (cost.payload_bits > 0) throw ConfigError("cost.payload_bits is for drafts that go over an uplink: a server has none, leave it at 0");
}

DraftServingOptions draft_serving_options(const Config& config) {
  DraftServingOptions options;
  config.read(options, {"type"});
  return options;
}

std::unique_ptr<DraftSource> open_drafts(const DraftServingOptions& options, const std::vector<std::string>& files) {
  DraftLengthOptions source;
  source.mode = options.mode, source.synthetic = options.synthetic;
  return open_drafts(source, files);
}

DraftServing::DraftServing(const DraftServingOptions& options, std::unique_ptr<DraftSource> source) : options_(options), source_(std::move(source)) {
  lengths_ = parse_draft_lengths(options.lengths, std::min(kMostDrafted, source_->most_drafted()));
  for (const int64_t k : lengths_) profiles_.push_back(profile(k));
  reference_.resize(options.max_batch + 1), best_length_.resize(options.max_batch + 1);
  for (int64_t b = 1; b <= options.max_batch; ++b)
    for (const int64_t k : lengths_)
      if (const double rate = fixed_rate(k, b); rate > reference_[b]) reference_[b] = rate, best_length_[b] = k;
  service_ms_ = profiles_[0].tokens / static_cast<double>(reference_texts()) / reference_[1];
  const ObservationSpec seen{features(most_drafted()), {}, 0};
  ObservationSpec all = seen;
  for (const Feature& f : {Feature{"log2_load", "", -12, 12}, Feature{"requests_left", "", 0, 1}, Feature{"log2_tokens_left", "", 0, 24}}) all.context.push_back(f);
  const bool time = options.objective == "time";
  spec_ = {.name = "draft_serving",
           .agents = {{"length", seen, {.kind = HeadKind::kCategorical, .size = static_cast<int>(lengths_.size())}}},
           .critic = all,
           .reward_terms = time ? std::vector<std::string>{"waiting", "decoding", "shaping"} : std::vector<std::string>{"in_time"},
           .time_limit = 0};
}

int64_t DraftServing::reference_texts() const { return std::min(kReferenceTexts, source_->texts()); }

DraftServing::Profile DraftServing::profile(int64_t length) const {
  Profile out;
  const int64_t texts = reference_texts();
  for (int64_t i = 0; i < texts; ++i) {   // all over the files: kinds of texts may come one after the other
    const int64_t text = i * (source_->texts() / texts);
    DraftPlace place;
    place.key = {0, static_cast<uint64_t>(text)};
    source_->begin(place, text);
    for (int64_t left = source_->left(place); left > 0; left = source_->left(place)) {
      const int64_t drafted = std::min(length, left - 1), tokens = accepted_of(place, drafted) + 1;
      out.rounds[drafted] += 1, out.tokens += static_cast<double>(tokens);
      source_->advance(place, tokens);
    }
  }
  return out;
}

double DraftServing::round_ms(int64_t length, int64_t batch) const {
  return static_cast<double>(length) * options_.cost.draft_ms(batch) + options_.cost.round_ms(length, batch);
}

double DraftServing::fixed_rate(int64_t drafted, int64_t batch) const {
  const Profile& p = profiles_[std::find(lengths_.begin(), lengths_.end(), drafted) - lengths_.begin()];
  double ms = 0;
  for (int64_t k = 0; k <= drafted; ++k) ms += p.rounds[k] * round_ms(k, batch);
  return p.tokens / ms;
}

void DraftServing::reset(State& s, WorldKey key) const {
  begin(s, key, options_.low_rate * std::pow(options_.high_rate / options_.low_rate, world_draws(key, -1).uniform()));
}

void DraftServing::begin(State& s, WorldKey key, double rate_per_s) const {
  State fresh;
  fresh.arrivals = std::move(s.arrivals), fresh.batch = std::move(s.batch);
  s = std::move(fresh);
  s.key = key, s.rate = rate_per_s / 1000, s.token_ms = usual_token_ms(s.rate);
  s.arrivals.resize(options_.requests), s.batch.clear(), s.batch.reserve(options_.max_batch);
  draw_arrivals(key, s.rate, options_.cv, s.arrivals);
  admit(s);
}

// ms of a sequence per token, in the smallest batch that keeps up with the rate of arrivals.
double DraftServing::usual_token_ms(double rate) const {
  const double demand = rate * service_ms_ * reference_[1];   // tokens per ms
  int64_t batch = 1;
  while (batch < options_.max_batch && static_cast<double>(batch) * reference_[batch] < demand) ++batch;
  return 1 / reference_[batch];
}

// Its text, drafts and coins belong to the request, whenever and with whomever it is decoded.
void DraftServing::begin_sequence(State& s, int64_t request) const {
  Sequence q;
  q.request = request, q.acceptance = s.acceptance;
  q.place.key = {mix64(s.key.seed ^ mix64(s.key.episode)), static_cast<uint64_t>(request)};
  source_->begin(q.place, world_draws(s.key, request).below(static_cast<uint32_t>(source_->texts())));
  s.batch.push_back(std::move(q));
}

// First come, first served. With nothing to do the clock goes on to the next arrival.
void DraftServing::admit(State& s) const {
  if (s.admitted == s.arrived && s.batch.empty() && s.arrived < options_.requests) s.now_ms = std::max(s.now_ms, s.arrivals[s.arrived]);
  while (s.arrived < options_.requests && s.arrivals[s.arrived] <= s.now_ms) ++s.arrived;
  while (s.admitted < s.arrived && static_cast<int64_t>(s.batch.size()) < options_.max_batch) begin_sequence(s, s.admitted++);
}

int64_t DraftServing::accepted_of(const DraftPlace& place, int64_t drafted) const {
  int64_t accepted = 0;
  while (accepted < drafted && source_->look(place, accepted).accepted) ++accepted;
  return accepted;
}

DraftServing::Round DraftServing::round(State& s, int64_t length, std::vector<Served>* served) const {
  TT_CHECK(length >= 0 && length <= most_drafted());
  Round r{.length = length, .batch = static_cast<int64_t>(s.batch.size())};
  std::array<int64_t, kMostDrafted> drafting = {};   // sequences in each draft pass
  for (Sequence& q : s.batch) {
    const int64_t drafted = std::min(length, source_->left(q.place) - 1), accepted = accepted_of(q.place, drafted);
    for (int64_t d = 0; d < drafted; ++d) ++drafting[d];
    r.drafted += drafted, r.accepted += accepted, r.tokens += accepted + 1, r.first += q.tokens == 0;
    q.acceptance = acceptance_after(q.acceptance, drafted, accepted);
    for (int64_t d = 0; d < drafted && d <= accepted; ++d) s.acceptance += (1 - kServerAverage) * (static_cast<float>(d < accepted) - s.acceptance);
    q.last_drafted = drafted, q.last_accepted = accepted, q.tokens += accepted + 1;
    source_->advance(q.place, accepted + 1);
  }
  for (int64_t d = 0; d < length && drafting[d] > 0; ++d) r.ms += options_.cost.draft_ms(drafting[d]);
  r.ms += options_.cost.round_ms(r.drafted + r.batch - 1, 1);   // by all tokens of the batch
  pass_time(s, r);
  leave(s, r, served);
  admit(s);
  r.over = s.finished == options_.requests;
  return r;
}

// Who arrives during a round waits from then on.
void DraftServing::pass_time(State& s, Round& r) const {
  r.decoding_ms = static_cast<double>(r.batch) * r.ms, r.waiting_ms = static_cast<double>(s.arrived - s.admitted) * r.ms;
  s.now_ms += r.ms;
  for (; s.arrived < options_.requests && s.arrivals[s.arrived] <= s.now_ms; ++s.arrived) r.waiting_ms += s.now_ms - s.arrivals[s.arrived];
  s.decoding_ms += r.decoding_ms, s.waiting_ms += r.waiting_ms, s.busy_ms += r.ms;
  s.tokens += r.tokens, s.drafted += r.drafted, s.accepted += r.accepted;
}

void DraftServing::leave(State& s, Round& r, std::vector<Served>* served) const {
  std::erase_if(s.batch, [&](const Sequence& q) {
    if (source_->left(q.place) > 0) return false;
    Served done{.request = q.request, .tokens = q.tokens, .arrived_ms = s.arrivals[q.request], .done_ms = s.now_ms};
    const double per_token = done.ms() / static_cast<double>(q.tokens);
    done.in_time = per_token <= options_.slo_ms_per_token;
    ++s.finished, s.per_token_ms += per_token, s.in_time += done.in_time, r.in_time += done.in_time;
    if (served != nullptr) served->push_back(done);
    return true;
  });
}

DraftServing::BatchView DraftServing::view(const State& s) const {
  BatchView out;
  double squares = 0;
  for (const Sequence& q : s.batch) {
    out.acceptance += q.acceptance, squares += static_cast<double>(q.acceptance) * q.acceptance;
    out.last_accepted += static_cast<double>(q.last_accepted), out.last_entropy += source_->last_entropy(q.place);
    out.ending += source_->left(q.place) <= most_drafted();
  }
  const double n = static_cast<double>(s.batch.size());
  if (n == 0) return {};
  out.acceptance /= n, out.last_accepted /= n, out.last_entropy /= n, out.ending /= n;
  out.acceptance_spread = std::sqrt(std::max(0.0, squares / n - out.acceptance * out.acceptance));
  return out;
}

// Of the last few arrivals, per ms: what a server can know.
double DraftServing::arrival_rate(const State& s) const {
  const int64_t n = std::min(s.arrived, kRecentArrivals);
  const double since = s.arrived > n ? s.arrivals[s.arrived - n - 1] : 0;
  return static_cast<double>(n) / std::max(1e-9, s.now_ms - since);
}

std::span<float> DraftServing::show(const State& s, float* out) const {
  const BatchView v = view(s);
  const int64_t b = std::max<int64_t>(1, static_cast<int64_t>(s.batch.size())), most = most_drafted();   // none: the view after the last round
  const double first = round_ms(1, b) - round_ms(0, b), mean = (round_ms(most, b) - round_ms(0, b)) / static_cast<double>(most);
  const float values[] = {std::log2(static_cast<float>(b)),
                          std::log2(1 + static_cast<float>(s.arrived - s.admitted)),
                          static_cast<float>(v.acceptance),
                          static_cast<float>(v.acceptance_spread),
                          static_cast<float>(v.last_accepted),
                          std::min(static_cast<float>(v.last_entropy), kMostEntropy),
                          log_between(reference_[b] * first, -12, 12),
                          log_between(reference_[b] * mean, -12, 12),
                          log_between(reference_[b] * round_ms(0, b), -12, 12),
                          static_cast<float>(v.ending),
                          log_between(arrival_rate(s) * service_ms_, -12, 12)};
  std::copy(std::begin(values), std::end(values), out);
  return {out, std::size(values)};
}

void DraftServing::observe(const State& s, int, ObservationRows out) const { show(s, out.context); }

// What is still to come beside: without it the value of an episode cannot be told.
void DraftServing::observe_critic(const State& s, ObservationRows out) const {
  float* const more = out.context + show(s, out.context).size();
  int64_t left = 0;
  for (const Sequence& q : s.batch) left += source_->left(q.place);
  more[0] = log_between(s.rate * service_ms_, -12, 12);
  more[1] = 1 - static_cast<float>(s.finished) / static_cast<float>(options_.requests);
  more[2] = std::log2(1 + static_cast<float>(left));
}

void DraftServing::act(State& s, int, const float* action) const { s.action = static_cast<int32_t>(action[0]); }

StepOutcome DraftServing::step(State& s, float* terms) const {
  const Round r = round(s, lengths_[s.action]);
  const double requests = static_cast<double>(options_.requests), unit = requests * service_ms_;
  if (options_.objective == "goodput") {
    terms[0] = static_cast<float>(static_cast<double>(r.in_time) / requests);
  } else {
    const double tokens = options_.shaping ? static_cast<double>(r.tokens) : 0;
    terms[0] = static_cast<float>(-r.waiting_ms / unit), terms[1] = static_cast<float>(-r.decoding_ms / unit), terms[2] = static_cast<float>(tokens * s.token_ms / unit);
  }
  return {.terminated = r.over};
}

TT_REGISTER(EnvironmentEntry, draft_serving,
            {.name = "draft_serving",
             .doc = "how many tokens to draft in a server: a queue, a batch, and arrivals",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               const DraftServingOptions options = draft_serving_options(config);
               return std::make_unique<LightBatch<DraftServing>>(std::make_shared<DraftServing>(options, open_drafts(options, data.files)), size);
             },
             .help = [] { return help_of<DraftServingOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(draft_serving_options(config)); },
             .preferred_batch = 64});

}  // namespace trimtab
