#include "envs/kv_precision/pages/pages.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/random.h"
#include "envs/kv_precision/mode/mode.h"

namespace trimtab {
namespace {

constexpr KvBits kPlain{16, 16};
constexpr size_t kMostTruth = size_t{1} << 30;   // bytes of log-probabilities that are kept
constexpr size_t kPairView = 6;   // features of kv_pair_features()

float log10_of(double x, double least) { return static_cast<float>(std::log10(std::max(least, x))); }

std::vector<Feature> context_features() {
  return {{"place", "", 0, 1}, {"layer", "", 0, 1}, {"unit", "", 0, 1}, {"review", "", 0, 1}, {"log2_age", "", 0, 16}, {"units_left", "", 0, 1},
          {"bits_left", "bit", 0, 32}, {"entropy", "nat", 0, 16}, {"confidence", "", 0, 1}, {"rarity", "nat", -16, 16},
          {"log10_variance", "", -12, 0}, {"log10_key_norm", "", -3, 4}, {"log10_value_norm", "", -3, 4},
          {"log10_saliency", "", -3, 3}, {"log10_recent_saliency", "", -3, 3}, {"log10_expected", "", -3, 3}};
}
std::vector<Feature> item_features() {
  std::vector<Feature> out = kv_pair_features();
  for (const char* name : {"log10_key_error", "log10_value_error"}) out.push_back({name, "", -6, 1});
  // price_gap with the attention that the page may expect, and the price of all pages; -lg(1 + 100 x), fine where choices are close.
  out.push_back({"page_gap", "", -6, 0});
  out.push_back({"is_current", "", 0, 1});
  return out;
}

// Every piece is read many times, its 16-bit reading is always the same.
void know_truth(KvPagesWorld& w) {
  w.truth.resize(w.pieces.size());
  size_t tokens = 0;
  for (const TextPiece& p : w.pieces) tokens += p.size();
  if (tokens * static_cast<size_t>(w.cached->config().vocab_size) * sizeof(double) > kMostTruth) return;
  Pool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  pool.run(static_cast<int64_t>(w.pieces.size()), [&](int64_t i) { w.truth[i] = plain_log_probabilities(*w.cached, w.pieces[i], w.cache); });
}

double saliency(double mass, double even) { return even > 0 ? mass / even : 1; }

int64_t age_bucket(int64_t age) { return std::min<int64_t>(KvPages::kAges - 1, std::bit_width(static_cast<uint64_t>(age))); }

}  // namespace

void KvPagesOptions::describe(Fields& f) {
  f.choice("mode", mode, {"pages"}, "pages: widths of every page while a model reads; data are texts");
  f.text("model", model, {.doc = "the model that reads: a run or a Hugging Face folder"});
  f.text("table", table, {.doc = "its sensitivities, from `trimtab measure` (on training text); they say which cache is meant, too"});
  f.integer("window", window, {.low = 2, .high = 1e7, .unit = "tokens", .doc = "longest piece of text"});
  f.integer("pieces", pieces, {.low = 0, .high = 1e9, .doc = "pieces read at most; 0: all"});
  f.number("low_bits", low_bits, {.low = 0, .high = 17, .unit = "bit", .doc = "smallest budget drawn, per number of packed pages, scales included"});
  f.number("high_bits", high_bits, {.low = 0, .high = 17, .unit = "bit", .doc = "largest budget drawn"});
  f.number("slack", slack, {.low = 0, .high = 10, .doc = "share of the budget that may be overspent at a price; 0: the budget is hard"});
  f.number("dual_rate", dual_rate, {.low = 0, .high = 1000, .doc = "step size of the price of overspending, per episode"});
  f.integers("review_ages", review_ages, {.low = 1, .high = 1e6, .unit = "pages", .doc = "ages at which a page may become narrower"});
  f.flag("shaping", shaping, "reward terms tell at once what widths are likely to cost (a potential: the sum over an episode does not change)");
}
void KvPagesOptions::validate() const {
  if (high_bits < low_bits) throw ConfigError(fmt::format("high_bits = {} is below low_bits = {}", high_bits, low_bits));
  if (model.empty() || table.empty()) throw ConfigError("mode pages needs env.model, a run or a Hugging Face folder, and env.table, made by `trimtab measure` on it");
}

std::shared_ptr<const KvPagesWorld> KvPagesWorld::open(const KvPagesOptions& options, const std::vector<std::string>& texts) {
  if (texts.empty()) throw ConfigError("kv_precision's mode pages needs texts: name .txt or .jsonl files under data: {train: [...]}");
  // Shards of a rollout read the same model: it is held once for as long as one of them lives.
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const KvPagesWorld>> open_ones;
  const std::string key = fmt::format("{}\n{}\n{}\n{}\n{}", options.model, options.table, options.window, options.pieces, fmt::join(texts, "\n"));
  const std::lock_guard lock(mutex);
  if (auto there = open_ones[key].lock()) return there;
  auto out = std::make_shared<KvPagesWorld>();
  out->model = LanguageModel::load(options.model);
  out->table = read_sensitivity(options.table);
  const std::string hash = hash_of(*out->model.transformer), &measured_on = measured_fact(out->table, "model_hash", options.table);
  if (measured_on != hash)
    throw DataError(fmt::format("{}: measured on another model than {} (its weights have hash {}, the model's {}): measure this one", options.table,
                                options.model, measured_on, hash));
  Config::parse(measured_fact(out->table, "cache", options.table), options.table).read(out->cache);
  Pool pool(1);
  out->cached = std::make_unique<CachedModel>(*out->model.transformer, pool);
  for (TextPiece& piece : joined(read_text_pieces({texts, options.window, options.pieces}, out->model)))
    if (static_cast<int64_t>(piece.size()) > out->cache.sinks + out->cache.page_tokens) out->pieces.push_back(std::move(piece));
  if (out->pieces.empty())
    throw DataError(fmt::format("{}: no text of more than {} tokens (sinks and a page): nothing would be packed", fmt::join(texts, ", "),
                                out->cache.sinks + out->cache.page_tokens));
  know_truth(*out);
  open_ones[key] = out;
  return out;
}

KvPages::Episode::Episode(const KvPagesWorld& world, int64_t piece)
    : text(world.pieces[piece]), reader(*world.cached, text, {&world.cache, 1}, true, world.truth[piece]), seen(world.cached->config().vocab_size),
      by_age(world.table.units() * kAges) {}

KvPages::KvPages(const KvPagesOptions& options, std::shared_ptr<const KvPagesWorld> world) : options_(options), world_(std::move(world)) {
  const KvSensitivity& t = world_->table;
  if (t.bits(least_bytes(t)) > options.low_bits)
    throw ConfigError(fmt::format("low_bits = {}, but the cheapest widths of {} take {:.3f} bits with their scales: raise it, or measure narrower --pairs",
                                  options.low_bits, options.table, t.bits(least_bytes(t))));
  std::sort(options_.review_ages.rbegin(), options_.review_ages.rend());
  const int pairs = static_cast<int>(t.pairs.size());
  const ObservationSpec view{context_features(), item_features(), pairs};
  spec_ = {.name = "kv_precision", .agents = {{"widths", view, {.kind = HeadKind::kChoice, .size = pairs}}}, .critic = view,
           .reward_terms = {"kl", "overspend", "shaping"}, .time_limit = 0};
}

void KvPages::reset(State& s, WorldKey key) const {
  Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
  const int64_t piece = draws.below(static_cast<uint32_t>(world_->pieces.size()));
  const double bits = draws.uniform(static_cast<float>(options_.low_bits), static_cast<float>(options_.high_bits));
  s.key = key;
  begin(s, piece, bits);
}

void KvPages::begin(State& s, int64_t piece, double bits) const {
  const KvSensitivity& t = world_->table;
  s.piece = static_cast<int32_t>(piece), s.bits = bits;
  s.choices.clear();
  s.episode = std::make_unique<Episode>(*world_, piece);
  const int64_t budget = std::max(t.bytes_at(bits), least_bytes(t));
  s.scale = std::max(kLeastKl, relaxed_kl(t, budget)), s.price = byte_price(t, 0, budget);
  double kl = 0;
  TT_CHECK(read_on(s, kl), "a text without a full page");
}

int64_t KvPages::num_fills(const TextPiece& text) const {
  return (static_cast<int64_t>(text.size()) - 1 - world_->cache.sinks) / world_->cache.page_tokens;
}
int64_t KvPages::ceiling(const State& s) const {
  const KvSensitivity& t = world_->table;
  return std::max(t.bytes_at(s.bits * (1 + options_.slack)), least_bytes(t)) * static_cast<int64_t>(s.episode->pages.size());
}
double KvPages::page_bits(const State& s) const {
  return world_->table.bits(s.episode->used) / static_cast<double>(s.episode->pages.size());
}
bool KvPages::narrows(int from, int to) const {
  const KvBits a = world_->table.pairs[from], b = world_->table.pairs[to];
  return b.key <= a.key && b.value <= a.value;
}

bool KvPages::allowed(const State& s, int64_t pair) const {
  const Episode& e = *s.episode;
  if (e.at >= e.queue.size()) return false;
  const Decision& d = e.queue[e.at];
  const KvSensitivity& t = world_->table;
  if (is_review(e)) return narrows(facts(e, d).pair, static_cast<int>(pair));
  return e.used + t.unit_bytes(pair) + (t.units() - 1 - d.unit) * t.unit_bytes(cheapest_pair(t)) <= ceiling(s);
}

// Reads until a page is full, as far as there is room each time.
bool KvPages::read_on(State& s, double& kl) const {
  Episode& e = *s.episode;
  do {
    if (e.reader.over()) return false;
    read_chunk(e, kl);
  } while (!e.reader.full());
  if (e.reader.over()) return false;   // nothing comes that would read the page
  fill(e);
  e.price = page_price(s);
  return true;
}

void KvPages::read_chunk(Episode& e, double& kl) const {
  const int64_t before = e.reader.tokens_read(), sinks = world_->cache.sinks;
  double rows = 0;
  const int64_t vocab = world_->cached->config().vocab_size;
  e.reader.read([&](size_t, int64_t row, std::span<const double> logp) {
    const int32_t token = e.text[before + row];
    const double rarity = -std::log(static_cast<double>(e.seen[token] + 1) / static_cast<double>(before + row + vocab + 1));
    ++e.seen[token], ++rows;
    if (before + row < sinks) return;
    double entropy = 0, most = -INFINITY;
    for (const double l : logp) entropy -= std::exp(l) * l, most = std::max(most, l);
    e.filling.entropy += static_cast<float>(entropy), e.filling.confidence += static_cast<float>(std::exp(most)), e.filling.rarity += static_cast<float>(rarity);
  });
  kl += e.reader.last_kl(0);
  note_masses(e, before);
  if (before < sinks) return;   // a chunk of sinks
  if (e.filling.variance.empty()) e.filling.variance.resize(world_->table.layers);
  for (int64_t l = 0; l < world_->table.layers; ++l) e.filling.variance[l] += e.reader.variance()[l] * static_cast<float>(rows);
}

// What even attention would have given to the pages.
void KvPages::note_masses(Episode& e, int64_t before) const {
  const KvSensitivity& t = world_->table;
  const double heads = static_cast<double>(world_->cached->config().num_heads / t.kv_heads);
  const int64_t page = world_->cache.page_tokens, after = e.reader.tokens_read();
  double even = 0;   // of one token that all rows see, by all query heads of a KV head
  for (int64_t i = before; i < after; ++i) even += heads / static_cast<double>(i + 1);
  for (PageFacts& p : e.pages) p.even_since_filled += even * static_cast<double>(page), p.even_mass += even * static_cast<double>(page);
  if (before >= world_->cache.sinks)
    for (int64_t i = before; i < after; ++i) e.filling.even_mass += heads * static_cast<double>((i - world_->cache.sinks) % page + 1) / static_cast<double>(i + 1);
}

void KvPages::fill(Episode& e) const {
  const KvSensitivity& t = world_->table;
  KvCache& cache = e.reader.cache(0);
  cache.pack(std::vector<KvBits>(t.layers * t.kv_heads, kPlain));
  const int32_t page = static_cast<int32_t>(e.pages.size());
  const float n = static_cast<float>(world_->cache.page_tokens);
  PageFacts& p = e.pages.emplace_back(std::exchange(e.filling, {}));
  p.entropy /= n, p.confidence /= n, p.rarity /= n;
  for (float& v : p.variance) v /= n;
  e.units.resize(e.pages.size() * t.units());
  const int64_t per_unit = t.heads_per_unit();
  for (int64_t i = 0; i < static_cast<int64_t>(e.units.size()); ++i) {
    UnitFacts& f = e.units[i];
    double mass = 0;
    for (int64_t h = 0; h < per_unit; ++h) {
      const int64_t head = i % t.units() * per_unit + h, layer = head / t.kv_heads;
      const KvCache::Page& held = cache.pages(layer, head % t.kv_heads)[i / t.units()];
      mass += held.mass / static_cast<double>(per_unit);
      if (i / t.units() < page) continue;
      f.key_norm += held.key_norm / static_cast<float>(per_unit), f.value_norm += held.value_norm / static_cast<float>(per_unit);
      f.errors.resize(t.pairs.size());
      for (size_t k = 0; k < t.pairs.size(); ++k) {
        const KvCache::PackingError error = cache.packing_error(layer, head % t.kv_heads, page, t.pairs[k]);
        f.errors[k].key += error.key / static_cast<float>(per_unit), f.errors[k].value += error.value / static_cast<float>(per_unit);
      }
    }
    f.recent_mass = mass - f.mass, f.mass = mass;
  }
  note_ages(e);
  queue_decisions(e);
}

// Of every page but the new one: what the text since the page before gave it, over even attention since it filled, under the age it had
// then. So pages count less the longer they have been there; over even attention since the page before, labels made from it had a
// larger KL in eight of nine cases tried (three models, three budgets, validation texts).
void KvPages::note_ages(Episode& e) const {
  const int64_t units = world_->table.units(), pages = static_cast<int64_t>(e.pages.size());
  for (int64_t p = 0; p + 1 < pages; ++p)
    for (int64_t u = 0; u < units; ++u) {
      MassByAge& m = e.by_age[u * kAges + age_bucket(pages - 2 - p)];
      m.mass += e.units[p * units + u].recent_mass, m.even += e.pages[p].even_since_filled;
    }
}

double KvPages::expected_mass(const Episode& e, const Decision& d) const {
  const int64_t age = static_cast<int64_t>(e.pages.size()) - 1 - d.page;
  const auto usual = [&](int64_t a) {   // even attention until more is known
    const MassByAge& m = e.by_age[d.unit * kAges + age_bucket(a)];
    const double prior = e.pages[d.page].even_mass;
    return (m.mass + prior) / (m.even + prior);
  };
  if (age == 0) return usual(0);
  const double own = saliency(facts(e, d).recent_mass, e.pages[d.page].even_since_filled) / usual(age - 1);
  return usual(age) * (1 + std::min(10.0, own)) / 2;
}

// Expected KL of a page at that pair plus the price of its bytes; `weight`: expected_mass.
double KvPages::priced(const Decision& d, double weight, double price, int pair) const {
  const KvSensitivity& t = world_->table;
  return weight * t.kl[d.unit][pair] + price * static_cast<double>(t.unit_bytes(pair));
}

template <class Allowed>
int KvPages::best_priced(const Episode& e, const Decision& d, double price, const Allowed& allowed) const {
  const double weight = expected_mass(e, d);
  int best = -1;
  for (int p = 0; p < static_cast<int>(world_->table.pairs.size()); ++p)
    if (allowed(p) && (best < 0 || priced(d, weight, price, p) < priced(d, weight, price, best))) best = p;
  return best;
}

int64_t KvPages::bytes_at_price(const Episode& e, double price) const {
  const KvSensitivity& t = world_->table;
  int64_t sum = 0;
  for (int32_t p = 0; p < static_cast<int32_t>(e.pages.size()); ++p)
    for (int32_t u = 0; u < static_cast<int32_t>(t.units()); ++u) {
      const int now = facts(e, {p, u}).pair;
      sum += t.unit_bytes(best_priced(e, {p, u}, price, [&](int pair) { return now < 0 || narrows(now, pair); }));
    }
  return sum;
}

// By bisection of its logarithm.
double KvPages::page_price(const State& s) const {
  double low = -40, high = 20;
  for (int i = 0; i < 24; ++i) {
    const double middle = (low + high) / 2;
    (bytes_at_price(*s.episode, std::exp(middle)) > ceiling(s) ? low : high) = middle;
  }
  return std::exp(high);
}

// Reviews first, oldest pages first: what they free is there for the new page.
void KvPages::queue_decisions(Episode& e) const {
  const KvSensitivity& t = world_->table;
  e.queue.clear(), e.at = 0;
  const int64_t page = static_cast<int64_t>(e.pages.size()) - 1;
  for (const int64_t age : options_.review_ages)
    for (int64_t u = 0; page >= age && u < t.units(); ++u) {
      const Decision d{static_cast<int32_t>(page - age), static_cast<int32_t>(u)};
      const int now = facts(e, d).pair;
      for (int p = 0; p < static_cast<int>(t.pairs.size()); ++p)
        if (p != now && narrows(now, p)) {
          e.queue.push_back(d);
          break;
        }
    }
  for (int64_t u = 0; u < t.units(); ++u) e.queue.push_back({static_cast<int32_t>(page), static_cast<int32_t>(u)});
}

void KvPages::show_page(const State& s, const Decision& d, float* c) const {
  const Episode& e = *s.episode;
  const KvSensitivity& t = world_->table;
  const PageFacts& p = e.pages[d.page];
  const UnitFacts& f = facts(e, d);
  const int64_t layer = d.unit * t.heads_per_unit() / t.kv_heads;
  const int64_t age = static_cast<int64_t>(e.pages.size()) - 1 - d.page;
  const float values[] = {static_cast<float>(e.pages.size()) / static_cast<float>(std::max<int64_t>(1, num_fills(e.text))),
                          static_cast<float>(layer) / static_cast<float>(t.layers), static_cast<float>(d.unit) / static_cast<float>(t.units()),
                          is_review(e) ? 1.0f : 0.0f, std::log2(static_cast<float>(1 + age)),
                          is_review(e) ? 1.0f : static_cast<float>(t.units() - d.unit) / static_cast<float>(t.units()), 0,
                          p.entropy, p.confidence, p.rarity, log10_of(p.variance[layer], 1e-12), log10_of(f.key_norm, 1e-3), log10_of(f.value_norm, 1e-3),
                          log10_of(saliency(f.mass, p.even_mass), 1e-3),
                          log10_of(age == 0 ? saliency(f.mass, p.even_mass) : saliency(f.recent_mass, p.even_since_filled), 1e-3),
                          log10_of(expected_mass(e, d), 1e-3)};
  std::copy(std::begin(values), std::end(values), c);
}

void KvPages::show_widths(const State& s, const Decision& d, double left, ObservationRows out) const {
  const Episode& e = *s.episode;
  const KvSensitivity& t = world_->table;
  const UnitFacts& f = facts(e, d);
  const int64_t width = spec_.critic.item_size();
  const double price = is_review(e) ? s.price : byte_price(t, d.unit, ceiling(s) - e.used), mean = s.scale / static_cast<double>(t.units());
  show_pairs({t, d.unit, price, left, mean}, out.items, width);
  const double weight = expected_mass(e, d);
  const int best = label(s, 0);
  const double least = best < 0 ? 0 : priced(d, weight, e.price, best);
  for (size_t p = 0; p < t.pairs.size(); ++p) {
    float* item = out.items + static_cast<int64_t>(p) * width;
    const float more[] = {log10_of(f.errors[p].key, 1e-6), log10_of(f.errors[p].value, 1e-6), -log10_of(1 + 100 * std::min(1e4, (priced(d, weight, e.price, static_cast<int>(p)) - least) / mean), 1),
                          f.pair == static_cast<int>(p) ? 1.0f : 0.0f};
    std::copy(std::begin(more), std::end(more), item + kPairView);
    out.mask[p] = allowed(s, static_cast<int64_t>(p));
    if (!out.mask[p]) std::fill_n(item, width, 0.0f);
  }
}

void KvPages::observe(const State& s, int, ObservationRows out) const {
  const Episode& e = *s.episode;
  const KvSensitivity& t = world_->table;
  if (e.at >= e.queue.size()) {   // the text is over
    std::fill_n(out.context, spec_.critic.context_size(), 0.0f);
    std::fill_n(out.items, spec_.critic.max_items * spec_.critic.item_size(), 0.0f);
    std::fill_n(out.mask, spec_.critic.max_items, uint8_t{0});
    return;
  }
  const Decision& d = e.queue[e.at];
  show_page(s, d, out.context);
  const double left = is_review(e) ? unit_bits(t, t.unit_bytes(facts(e, d).pair))
                                   : unit_bits(t, ceiling(s) - e.used) / static_cast<double>(t.units() - d.unit);
  out.context[6] = static_cast<float>(std::clamp(left, 0.0, 32.0));
  show_widths(s, d, left, out);
}

void KvPages::apply(State& s, int pair) const {
  Episode& e = *s.episode;
  const KvSensitivity& t = world_->table;
  const Decision d = e.queue[e.at];
  UnitFacts& f = facts(e, d);
  for (int64_t h = 0; h < t.heads_per_unit(); ++h) {
    const int64_t head = d.unit * t.heads_per_unit() + h;
    e.reader.cache(0).demote(head / t.kv_heads, head % t.kv_heads, d.page, t.pairs[pair]);
  }
  if (f.pair >= 0) e.used -= t.unit_bytes(f.pair), e.surrogate -= t.kl[d.unit][f.pair];
  e.used += t.unit_bytes(pair), e.surrogate += t.kl[d.unit][pair];
  f.pair = pair, ++e.at;
}

void KvPages::act(State& s, int, const float* action) const {
  const int pair = static_cast<int>(action[0]);
  TT_CHECK(pair >= 0 && pair < static_cast<int>(world_->table.pairs.size()) && allowed(s, pair), "pair {} is not allowed", pair);
  s.choices.push_back(static_cast<uint8_t>(pair));
}

int KvPages::label(const State& s, int) const {
  const Episode& e = *s.episode;
  return best_priced(e, e.queue[e.at], e.price, [&](int pair) { return allowed(s, pair); });
}

// Minus the surrogate KL that windows still to come are expected to bring, over the optimum's: a page is read by every later window,
// and of q pages each has a q-th of the attention.
double KvPages::potential(const State& s) const {
  const Episode& e = *s.episode;
  const int64_t fills = num_fills(e.text);
  double ahead = 0;
  for (int64_t q = static_cast<int64_t>(e.pages.size()); q <= fills; ++q) ahead += 1 / static_cast<double>(q);
  return -e.surrogate / s.scale * ahead / static_cast<double>(fills);
}

StepOutcome KvPages::step(State& s, float* terms) const {
  Episode& e = *s.episode;
  const double before = potential(s);
  apply(s, s.choices.back());
  double kl = 0, over = 0;
  bool ended = false;
  if (e.at == e.queue.size()) {
    over = static_cast<double>(e.used) / (static_cast<double>(world_->table.bytes_at(s.bits)) * static_cast<double>(e.pages.size())) - 1;
    e.overspend += over, ++e.windows;
    ended = !read_on(s, kl);
  }
  const double tokens = static_cast<double>(num_fills(e.text) * world_->cache.page_tokens);
  terms[0] = static_cast<float>(-kl / (s.scale * tokens));
  terms[1] = static_cast<float>(-s.dual * std::max(0.0, over) / static_cast<double>(num_fills(e.text)));
  terms[2] = options_.shaping ? static_cast<float>((ended ? 0 : potential(s)) - before) : 0.0f;
  if (ended && options_.slack > 0) s.dual = std::max(0.0, s.dual + options_.dual_rate * e.overspend / static_cast<double>(e.windows));
  return {.terminated = ended};
}

// An open episode is its world and its choices: it is read again.
void KvPages::serialise(State& s, Archive& a) const {
  a(s.key), a(s.piece), a(s.bits), a(s.dual), a(s.choices);
  if (!a.reading()) return;
  if (s.piece < 0 || s.piece >= static_cast<int32_t>(world_->pieces.size()))
    throw CheckpointError(fmt::format("saved state reads piece {} of {}: were the texts changed?", s.piece, world_->pieces.size()));
  const std::vector<uint8_t> choices = std::exchange(s.choices, {});
  const double dual = s.dual;
  begin(s, s.piece, s.bits);
  std::vector<float> terms(spec_.reward_terms.size());
  for (const uint8_t c : choices) {
    if (s.episode->at >= s.episode->queue.size() || c >= world_->table.pairs.size() || !allowed(s, c))
      throw CheckpointError("saved choices do not fit the texts, model and table: were they changed?");
    const float action = c;
    act(s, 0, &action), step(s, terms.data());
  }
  s.dual = dual;
}

KvPagesOptions kv_pages_options(const Config& config) {
  KvPagesOptions options;
  config.read(options, {"type"});
  return options;
}

TT_REGISTER(KvPrecisionMode, pages,
            {.name = "pages",
             .doc = "widths of every page while a model reads",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               const KvPagesOptions options = kv_pages_options(config);
               return std::make_unique<LightBatch<KvPages>>(std::make_shared<KvPages>(options, KvPagesWorld::open(options, data.files)), size);
             },
             .make_evaluator = make_pages_evaluator,
             .help = [] { return help_of<KvPagesOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(kv_pages_options(config)); }});

}  // namespace trimtab
