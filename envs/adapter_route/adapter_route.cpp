#include "envs/adapter_route/adapter_route.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "envs/adapter_route/resident_set.h"
#include "policies/bandits/best_arm.h"

namespace trimtab {
namespace {

constexpr int64_t kItemSize = 14;   // of item_features
enum Term { kQuality, kLatency, kBytes };   // additive
enum GatedTerm { kForm, kOutcome, kCost };   // hierarchical

float between(double value, float low, float high) { return std::clamp(static_cast<float>(value), low, high); }
float log_count(int64_t n) { return std::log2(1 + static_cast<float>(n)); }

std::vector<Feature> context_features(int64_t dimension) {
  std::vector<Feature> out;
  for (int64_t i = 0; i < dimension; ++i) out.push_back({"x" + std::to_string(i), "", -1, 1});
  for (const Feature& f : {Feature{"log2_queue", "", 0, 20}, Feature{"loads_in_flight", "adapters", 0, 1024}, Feature{"log2_seen", "", 0, 20}, Feature{"places_taken", "", 0, 1}}) out.push_back(f);
  return out;
}
std::vector<Feature> item_features() {
  return {{"is_base", "", 0, 1},        {"resident", "", 0, 1},      {"log2_mb", "", 0, 24},   {"wait_s", "s", 0, 60},         {"price", "", 0, 100},
          {"mean_quality", "", -4, 4},  {"deviation", "", 0, 100},   {"log2_count", "", 0, 20}, {"log2_recency", "", 0, 20}, {"log2_frequency", "", 0, 20},
          {"gain", "", 0, 4},           {"planned", "", 0, 1},       {"loss", "", 0, 100},    {"index", "", -200, 200}};
}

// Adapters of the sizes that are asked for, else of those that their tables tell.
PagingOptions sized(PagingOptions o, const QualitySource& source) {
  if (o.ranks.empty()) o.ranks.assign(source.ranks().begin(), source.ranks().end());
  else if (std::ssize(o.ranks) != source.adapters())
    throw ConfigError(fmt::format("env.paging.ranks has {} ranks for {} adapters: give one for each, in the tables' order, or leave it out", o.ranks.size(), source.adapters()));
  return o;
}

}  // namespace

void RouterOptions::describe(Fields& f) {
  f.number("alpha", alpha, {.low = 0, .high = 100, .doc = "weight of LinUCB's bonus"});
  f.number("ridge", ridge, {.low = 1e-6, .high = 1e6, .doc = "of linear models; also of those that agents see"});
  f.number("epsilon", epsilon, {.low = 0, .high = 1, .doc = "epsilon_greedy: chance of any adapter"});
  f.number("noise", noise, {.low = 0, .high = 100, .doc = "thompson: standard deviation of an observed quality"});
  f.integer("epoch", epoch, {.low = 1, .high = 1 << 20, .unit = "requests", .doc = "polar: between choices of residents"});
  f.integer("first_epoch", first_epoch, {.low = 1, .high = 1 << 20, .unit = "requests", .doc = "polar_plus: the first epoch, each next is twice as long"});
  f.integer("window", window, {.low = 0, .high = 1 << 16, .unit = "requests", .doc = "that the plan of agents and index_loss looks back on; 0: no plan"});
  f.integer("replan", replan, {.low = 1, .high = 1 << 20, .unit = "requests", .doc = "between plans"});
  f.number("explore", explore, {.low = 0, .high = 100, .doc = "polar_plus: adapters are forced until they were used this times features times log requests"});
}

void PriorOptions::describe(Fields& f) {
  f.texts("tables", tables, {.doc = "quality tables that the linear models of agents, prior_lru and index_loss are fitted on before the first request; none: they know nothing"});
  f.number("weight", weight, {.low = 0, .high = 1e6, .unit = "observations", .doc = "that a row of these tables counts for"});
  f.integer("contexts", contexts, {.low = 0, .high = 1 << 16, .doc = "rows of these tables that the plan looks at beside the last requests"});
  f.flag("by_task", by_task, "models are means of these tables' tasks, prompts belong to the nearest; else linear in the context");
}

void RouteRewardOptions::describe(Fields& f) {
  f.choice("kind", kind, {"additive", "hierarchical"},
           "additive: quality less cost; hierarchical: an answer in another form than asked for is -1 and nothing else, cost counts for right answers alone (Router-R1)");
  f.number("cost_share", cost_share, {.low = 0, .high = 1, .doc = "hierarchical: share of a right answer's reward that costing nothing earns"});
}

void AdapterRouteOptions::describe(Fields& f) {
  f.choice("mode", mode, {"synthetic", "recorded"}, "synthetic: linear qualities with known truth; recorded: data are tables of real adapters");
  f.choice("eviction", eviction, {"lru", "lfu", "lfu_aged", "greedy_dual", "fifo", "learned"}, "who makes room; learned: an agent of its own");
  f.number("w_latency", w_latency, {.low = 0, .high = 1e6, .unit = "1/s", .doc = "quality that a second until the first token costs"});
  f.number("w_bytes", w_bytes, {.low = 0, .high = 1e6, .unit = "1/GB", .doc = "quality that a GB of paging costs"});
  f.block("reward", reward, "how quality and cost become the reward");
  f.number("slo_ms", slo_ms, {.low = 1e-6, .high = 1e9, .unit = "ms", .doc = "a request is in time when its first token comes within this"});
  f.integer("max_batch", max_batch, {.low = 1, .high = 4096, .unit = "requests", .doc = "served at a time; the others wait"});
  f.number("prefill_ms", prefill_ms, {.low = 0, .high = 1e6, .unit = "ms", .doc = "of a prompt, beside its tokens"});
  f.number("prefill_token_ms", prefill_token_ms, {.low = 0, .high = 1e6, .unit = "ms", .doc = "of a prompt's token"});
  f.number("decode_token_ms", decode_token_ms, {.low = 0, .high = 1e6, .unit = "ms", .doc = "of an answer's token"});
  f.block("requests", requests, "who asks when for what");
  f.block("paging", paging, "room for adapters, and what loading one takes");
  f.block("synthetic", synthetic, "mode synthetic");
  f.block("routers", routers, "of the baselines");
  f.block("prior", prior, "what is known of qualities before the first request");
  f.integer("episodes", episodes, {.low = 1, .high = 1 << 20, .doc = "of an evaluation"});
}

AdapterRouteOptions adapter_route_options(const Config& config) {
  AdapterRouteOptions options;
  config.read(options, {"type"});
  return options;
}

std::unique_ptr<QualitySource> open_qualities(const AdapterRouteOptions& options, const std::vector<std::string>& files) {
  return options.mode == "recorded" ? recorded_qualities(files) : synthetic_qualities(options.synthetic);
}

AdapterRoute::AdapterRoute(const AdapterRouteOptions& options, std::unique_ptr<QualitySource> source)
    : options_(options), source_(std::move(source)), paging_(sized(options.paging, *source_), source_->adapters()) {
  const bool gated = options.reward.kind == "hierarchical";
  if (gated && options.mode == "recorded" && !source_->tells_form())
    throw ConfigError("env.reward.kind hierarchical asks for the form of answers, and the tables have no column 'well_formed': record them again (trimtab record adapters writes it), or set env.reward.kind to additive");
  if (!options.requests.log.empty()) log_.emplace(options.requests.log, options.requests.requests, *source_);
  for (int64_t a = 0; a < adapters(); ++a) prices_.push_back(options.w_latency * paging_.load_ms(a) / 1000 + options.w_bytes * static_cast<double>(paging_.bytes(a)) / 1e9);
  if (!options.prior.tables.empty()) {
    prior_ = fit_qualities(options.prior.tables, options.routers.ridge, options.prior.weight, options.prior.contexts, options.prior.by_task);
    const int64_t seen = prior_.centroids.empty() ? std::ssize(prior_.models[0].theta()) : std::ssize(prior_.centroids[0]);
    if (std::ssize(prior_.models) != adapters() + 1 || seen != source_->dimension())
      throw ConfigError(fmt::format("prior.tables are of {} models with embeddings of {}, the requests' of {} and {}: record them alike", prior_.models.size(), seen - 1, adapters() + 1, source_->dimension() - 1));
  } else {
    prior_.models.assign(adapters() + 1, RidgeModel(source_->dimension(), options.routers.ridge));
  }
  for (const std::vector<float>& x : prior_.rows)
    for (const RidgeModel& model : prior_.models) prior_means_.push_back(model.mean(x));
  const bool learned = options.eviction == "learned";
  eviction_ = learned ? Eviction::kLru : eviction_of(options.eviction);
  const auto models = static_cast<int>(adapters() + 1);
  const ObservationSpec route{context_features(source_->dimension()), item_features(), models};
  spec_ = {.name = "adapter_route",
           .agents = {{"route", route, {.kind = HeadKind::kChoice, .size = models}}},
           .critic = route,
           .reward_terms = gated ? std::vector<std::string>{"form", "outcome", "cost"} : std::vector<std::string>{"quality", "latency", "bytes"},
           .time_limit = options.requests.requests};   // by then it has ended by itself; rollouts of whole episodes want to know
  spec_.critic.context.push_back({"requests_left", "", 0, 1});
  if (!learned) return;
  ObservationSpec evict{route.context, route.item, models - 1};
  evict.context.push_back({"due", "", 0, 1}), evict.context.push_back({"incoming_log2_mb", "", 0, 24}), evict.context.push_back({"incoming_price", "", 0, 100});
  spec_.agents.push_back({"evict", evict, {.kind = HeadKind::kChoice, .size = models - 1}});
}

void AdapterRoute::requests(WorldKey key, std::vector<Request>& out) const {
  if (log_) log_->episode(key, out);
  else draw_requests(key, options_.requests, source_->tasks(), out);
}

void AdapterRoute::reset(State& s, WorldKey key) const {
  State fresh;
  fresh.requests = std::move(s.requests), fresh.models = std::move(s.models);
  s = std::move(fresh);
  s.key = key, s.world = world_of(key);
  requests(key, s.requests);
  s.places_ms.assign(options_.max_batch, 0), s.places_model.assign(options_.max_batch, static_cast<int32_t>(adapters()));
  paging_.begin(s.paging);
  s.models = prior_.models;
  s.counts.assign(adapters() + 1, 0), s.gains.assign(adapters(), 0);
  s.means.assign(options_.routers.window * (adapters() + 1), 0), s.planned.assign(adapters(), 0);
  s.next = -1;
  advance(s);
  notice(s);
}

void AdapterRoute::advance(State& s) const {
  if (++s.next == std::ssize(s.requests)) return;
  s.now_ms = std::max(s.requests[s.next].arrival_ms, *std::min_element(s.places_ms.begin(), s.places_ms.end()));
  source_->prompt(s.world, s.next, s.requests[s.next].task, s.prompt);
}

// Loads the chosen adapter and gives when it is there.
double AdapterRoute::bring(State& s, const Choice& c) const {
  if (!missing(s, c.adapter)) return paging_.arrives_ms(s.paging, c.adapter, s.now_ms);
  if (!paging_.has_room(s.paging, c.adapter)) {
    if (!c.stays) return paging_.load_passing(s.paging, c.adapter, s.now_ms);
    if (c.victim >= 0 && c.victim < adapters() && s.paging.adapters[c.victim].resident) paging_.evict(s.paging, c.victim);
    while (!paging_.has_room(s.paging, c.adapter)) paging_.evict(s.paging, victim(c.eviction, s.paging, {}, c.future));
  }
  return paging_.load(s.paging, c.adapter, s.now_ms);
}

AdapterRoute::Served AdapterRoute::answer(State& s, const Choice& c) const {
  TT_CHECK(c.adapter >= 0 && c.adapter <= adapters() && s.next < std::ssize(s.requests), "adapter {}, request {}", c.adapter, s.next);
  const Request& r = s.requests[s.next];
  Served out;
  ++s.paging.clock;
  if (c.adapter < adapters()) {
    out.hit = !missing(s, c.adapter);
    if (!out.hit) out.bytes = paging_.bytes(c.adapter), out.price = prices_[c.adapter];
    out.paging_ms = bring(s, c) - s.now_ms;
    paging_.use(s.paging, c.adapter);
    ++s.adapted, s.hits += out.hit;
  }
  out.queue_ms = s.now_ms - r.arrival_ms, out.prefill_ms = options_.prefill_ms + options_.prefill_token_ms * r.input_tokens;
  out.quality = source_->quality(s.prompt, c.adapter);
  out.well_formed = source_->well_formed(s.prompt, c.adapter);
  Draws noise(s.world, Stream::kAck, static_cast<uint32_t>(s.next), static_cast<uint32_t>(c.adapter));
  out.observed = out.quality + source_->noise() * noise.normal();
  const auto place = std::min_element(s.places_ms.begin(), s.places_ms.end()) - s.places_ms.begin();
  s.places_model[place] = static_cast<int32_t>(c.adapter);
  s.places_ms[place] = s.now_ms + out.paging_ms + out.prefill_ms + options_.decode_token_ms * r.output_tokens;
  std::vector<uint8_t> at_work(adapters() + 1);
  for (int64_t i = 0; i < options_.max_batch; ++i) at_work[s.places_model[i]] |= s.places_ms[i] > s.now_ms;
  s.batch_models += std::count(at_work.begin(), at_work.end() - 1, 1);
  s.quality += out.quality, s.ttft_ms += out.ttft_ms(), s.in_time += out.ttft_ms() <= options_.slo_ms;
  out.over = s.next + 1 == std::ssize(s.requests);
  return out;
}

AdapterRoute::Served AdapterRoute::serve(State& s, const Choice& c) const {
  const Served out = answer(s, c);
  advance(s);
  return out;
}

double AdapterRoute::set_residents(State& s, std::span<const uint8_t> wanted) const {
  double price = 0;
  for (int64_t a = 0; a < adapters(); ++a) {
    if (!wanted[a] || !missing(s, a)) continue;
    while (!paging_.has_room(s.paging, a)) {
      const int64_t out = victim(Eviction::kLru, s.paging, wanted);
      TT_CHECK(out >= 0, "the residents that are wanted do not fit");
      paging_.evict(s.paging, out);
    }
    paging_.load(s.paging, a, s.now_ms);
    price += prices_[a];
  }
  return price;
}

std::vector<double> AdapterRoute::qualities(WorldKey key) const {
  std::vector<Request> requests;
  this->requests(key, requests);
  std::vector<double> out;
  out.reserve(requests.size() * (adapters() + 1));
  Prompt prompt;
  for (int64_t i = 0; i < std::ssize(requests); ++i) {
    source_->prompt(world_of(key), i, requests[i].task, prompt);
    for (int64_t a = 0; a <= adapters(); ++a) out.push_back(source_->quality(prompt, a));
  }
  return out;
}

bool AdapterRoute::due(const State& s) const { return missing(s, s.route) && !paging_.has_room(s.paging, s.route); }

void AdapterRoute::notice(State& s) const {
  if (s.next == std::ssize(s.requests)) return;
  s.features = prior_.features(s.prompt.x);
  const double fade = std::exp2(-1 / kHalfLife);
  std::vector<double> means;
  for (const RidgeModel& model : s.models) means.push_back(model.mean(s.features));
  // The best of those that are there, and the second: what the best one's own gain is measured from.
  double best = means.back(), second = means.back();
  for (int64_t a = 0; a < adapters(); ++a) {
    if (missing(s, a)) continue;
    if (means[a] > best) second = best, best = means[a];
    else second = std::max(second, means[a]);
  }
  for (int64_t a = 0; a < adapters(); ++a) {
    const double without = missing(s, a) || means[a] < best ? best : second;
    s.gains[a] = fade * s.gains[a] + (1 - fade) * std::max(0.0, means[a] - without);
  }
  const RouterOptions& o = options_.routers;
  if (o.window == 0) return;
  std::copy(means.begin(), means.end(), s.means.begin() + s.next % o.window * std::ssize(means));
  if (s.next % o.replan == 0) plan(s);
}

void AdapterRoute::plan(State& s) const {
  const int64_t window = options_.routers.window, rows = std::min(window, s.next + 1), models = adapters() + 1;
  std::vector<double> values(s.means.begin(), s.means.begin() + rows * models);
  values.insert(values.end(), prior_means_.begin(), prior_means_.end());
  // What the next `window` requests gain pays for changes.
  ResidentProblem problem{values, prices_, {}, static_cast<double>(window * models) / static_cast<double>(values.size())};
  for (const auto& a : s.paging.adapters) problem.before.push_back(a.resident != 0);
  s.planned = best_residents(problem, paging_);
}

double AdapterRoute::loss(const State& s, int64_t a) const { return a < adapters() && s.planned[a] && !missing(s, a) ? prices_[a] : 0; }

int64_t AdapterRoute::least_loss(const State& s) const {
  if (s.paging.residents == 0) return -1;
  return best_arm(adapters(), [&](int64_t a) { return missing(s, a) ? -1e300 : -loss(s, a) - s.gains[a]; });
}

double AdapterRoute::entry_price(const State& s, int64_t a) const {
  if (!missing(s, a) || s.planned[a]) return 0;
  return prices_[a] + (paging_.has_room(s.paging, a) ? 0 : loss(s, least_loss(s)));
}

double AdapterRoute::index(const State& s, int64_t a) const {
  return s.models[a].mean(s.features) + options_.routers.alpha * s.models[a].width(s.features) - entry_price(s, a);
}

std::span<float> AdapterRoute::show_context(const State& s, float* out) const {
  float* at = std::copy(s.prompt.x.begin(), s.prompt.x.end(), out);
  const auto arrived = std::upper_bound(s.requests.begin(), s.requests.end(), s.now_ms, [](double now, const Request& r) { return now < r.arrival_ms; });
  const int64_t queue = std::max<int64_t>(0, arrived - s.requests.begin() - s.next - 1);
  const auto loading = [&](const PagingState::Adapter& a) { return a.resident && a.ready_ms > s.now_ms; };
  *at++ = log_count(queue);
  *at++ = static_cast<float>(std::count_if(s.paging.adapters.begin(), s.paging.adapters.end(), loading));
  *at++ = log_count(s.next);
  *at++ = static_cast<float>(std::count_if(s.places_ms.begin(), s.places_ms.end(), [&](double free) { return free > s.now_ms; })) / static_cast<float>(s.places_ms.size());
  return {out, at};
}

// The first `count` of the adapters and the base model.
void AdapterRoute::show_items(const State& s, int64_t count, ObservationRows out) const {
  for (int64_t a = 0; a < count; ++a) {
    const bool base = a == adapters();
    const PagingState::Adapter none, &p = base ? none : s.paging.adapters[a];
    const double mean = s.models[a].mean(s.features), width = s.models[a].width(s.features);
    const double mb = base ? 0 : static_cast<double>(paging_.bytes(a)) / 1e6, wait_ms = base ? 0 : paging_.arrives_ms(s.paging, a, s.now_ms) - s.now_ms;
    const float values[kItemSize] = {static_cast<float>(base),
                                     static_cast<float>(base || p.resident),
                                     between(std::log2(1 + mb), 0, 24),
                                     between(wait_ms / 1000, 0, 60),
                                     between(base || p.resident ? 0 : prices_[a], 0, 100),
                                     between(mean, -4, 4),
                                     between(width, 0, 100),
                                     log_count(s.counts[a]),
                                     p.last_used < 0 ? 20.0f : log_count(s.paging.clock - p.last_used),
                                     between(std::log2(1 + p.aged_now(s.paging.clock)), 0, 20),
                                     between(base ? 0 : s.gains[a], 0, 4),
                                     static_cast<float>(!base && s.planned[a]),
                                     between(loss(s, a), 0, 100),
                                     between(mean + options_.routers.alpha * width - entry_price(s, a), -200, 200)};
    std::copy(std::begin(values), std::end(values), out.items + a * kItemSize);
  }
}

void AdapterRoute::observe(const State& s, int agent, ObservationRows out) const {
  float* more = out.context + show_context(s, out.context).size();
  if (agent == 0) {
    show_items(s, adapters() + 1, out);
    std::fill_n(out.mask, adapters() + 1, 1);
    return;
  }
  const bool base = s.route == adapters();
  more[0] = due(s), more[1] = base ? 0 : between(std::log2(1 + static_cast<double>(paging_.bytes(s.route)) / 1e6), 0, 24), more[2] = between(price(s.route), 0, 100);
  show_items(s, adapters(), out);
  for (int64_t a = 0; a < adapters(); ++a) {
    out.mask[a] = s.paging.adapters[a].resident || (a == 0 && s.paging.residents == 0);   // one at least is there to be chosen
    if (!out.mask[a]) std::fill_n(out.items + a * kItemSize, kItemSize, 0.0f);
  }
}

void AdapterRoute::observe_critic(const State& s, ObservationRows out) const {
  float* more = out.context + show_context(s, out.context).size();
  *more = 1 - static_cast<float>(s.next) / static_cast<float>(s.requests.size());
  show_items(s, adapters() + 1, out);
  std::fill_n(out.mask, adapters() + 1, 1);
}

void AdapterRoute::act(State& s, int agent, const float* action) const {
  const int64_t most = agent == 0 ? adapters() : adapters() - 1, chosen = std::clamp<int64_t>(std::lround(action[0]), 0, most);
  (agent == 0 ? s.route : s.victim) = chosen;
}

AdapterRoute::Served AdapterRoute::follow(State& s) const {
  const Served out = answer(s, {.adapter = s.route, .victim = s.victim, .eviction = eviction_});
  s.models[s.route].learn(s.features, out.observed), ++s.counts[s.route];
  s.victim = -1;
  advance(s);
  notice(s);
  return out;
}

StepOutcome AdapterRoute::step(State& s, float* terms) const {
  const Served served = follow(s);
  reward(served, terms);
  return {.terminated = served.over};
}

void AdapterRoute::reward(const Served& served, float* terms) const {
  const double latency = options_.w_latency * served.ttft_ms() / 1000, bytes = options_.w_bytes * static_cast<double>(served.bytes) / 1e9;
  if (options_.reward.kind == "additive") {
    terms[kQuality] = static_cast<float>(served.observed);
    terms[kLatency] = static_cast<float>(-latency), terms[kBytes] = static_cast<float>(-bytes);
    return;
  }
  const double share = options_.reward.cost_share;
  terms[kForm] = static_cast<float>(served.well_formed - 1);
  terms[kOutcome] = static_cast<float>((1 - share) * served.observed);
  terms[kCost] = static_cast<float>(share * std::max(0.0, served.observed) * std::exp(-latency - bytes));
}

void AdapterRoute::serialise(State& s, Archive& a) const {
  a(s.key), a(s.world), a(s.requests), a(s.next), a(s.now_ms), a(s.prompt), a(s.places_ms), a(s.places_model), a(s.paging), a(s.features), a(s.counts), a(s.gains), a(s.means), a(s.planned), a(s.route), a(s.victim);
  a(s.batch_models), a(s.adapted), a(s.hits), a(s.in_time), a(s.quality), a(s.ttft_ms);
  if (a.reading()) s.models = prior_.models;
  for (RidgeModel& model : s.models) a(model);   // one by one into models of the right shape, which the general vector would make anew
  const bool fits = std::ssize(s.requests) == options_.requests.requests && std::ssize(s.places_ms) == options_.max_batch && std::ssize(s.paging.adapters) == adapters() &&
                    std::ssize(s.places_model) == options_.max_batch && std::ssize(s.gains) == adapters() &&
                    std::ssize(s.planned) == adapters() && s.features.size() == prior_.models[0].theta().size() && std::ssize(s.means) == options_.routers.window * (adapters() + 1) &&
                    std::ssize(s.counts) == adapters() + 1 && std::ssize(s.prompt.x) == source_->dimension() && s.next >= 0 && s.next < std::ssize(s.requests);
  if (!fits) throw CheckpointError("saved adapter_route: a state of another number of requests, adapters or features");
}

TT_REGISTER(EnvironmentEntry, adapter_route,
            {.name = "adapter_route",
             .doc = "multi-LoRA serving: which adapter answers a request, and which stay resident",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               const AdapterRouteOptions options = adapter_route_options(config);
               return std::make_unique<LightBatch<AdapterRoute>>(std::make_shared<AdapterRoute>(options, open_qualities(options, data.files)), size);
             },
             .help = [] { return help_of<AdapterRouteOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(adapter_route_options(config)); },
             .preferred_batch = 64});

}  // namespace trimtab
