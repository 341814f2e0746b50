#include "envs/kv_precision/layers.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr float kMostUnits = 1024;
constexpr double kLeastKl = 1e-9;   // nats: below, differences mean nothing

std::vector<Feature> context_features() {
  return {{"place", "", 0, 1}, {"units_left", "", 1, kMostUnits}, {"bits_left", "bit", 0, 17}};
}
std::vector<Feature> pair_features() {
  return {{"key_bits", "bit", 0, 16}, {"value_bits", "bit", 0, 16}, {"bits", "bit", 0, 17}, {"bits_over_left", "", -17, 17},
          {"log10_kl", "ln(nat)", -9, 3}, {"price_gap", "", -20, 0}};
}

}  // namespace

void KvPrecisionOptions::describe(Fields& f) {
  f.choice("mode", mode, {"layers"}, "layers: widths for every layer or head, once; data are tables made by `trimtab measure`");
  f.number("low_bits", low_bits, {.low = 0, .high = 16, .unit = "bit", .doc = "smallest budget drawn, per number of packed pages, scales included"});
  f.number("high_bits", high_bits, {.low = 0, .high = 17, .unit = "bit", .doc = "largest budget drawn"});
}
void KvPrecisionOptions::validate() const {
  if (high_bits < low_bits) throw ConfigError(fmt::format("high_bits = {} is below low_bits = {}", high_bits, low_bits));
}

KvLayers::KvLayers(const KvPrecisionOptions& options, std::vector<KvSensitivity> tables) : options_(options), tables_(std::move(tables)) {
  TT_CHECK(!tables_.empty(), "no tables");
  for (const KvSensitivity& t : tables_) {
    if (t.pairs != tables_[0].pairs) throw DataError("the tables do not have the same pairs of widths: measure them with the same --pairs");
    if (t.bits(least_bytes(t)) > options.low_bits)
      throw ConfigError(fmt::format("low_bits = {}, but the cheapest widths of a table take {:.3f} bits with their scales: raise it", options.low_bits,
                                    t.bits(least_bytes(t))));
  }
  const int pairs = static_cast<int>(tables_[0].pairs.size());
  const ObservationSpec view{context_features(), pair_features(), pairs};
  spec_ = {.name = "kv_precision", .agents = {{"widths", view, {.kind = HeadKind::kChoice, .size = pairs}}}, .critic = view, .reward_terms = {"kl"},
           .time_limit = 0};
}

void KvLayers::reset(State& s, WorldKey key) const {
  Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
  const int64_t table = draws.below(static_cast<uint32_t>(tables_.size()));
  begin(s, table, draws.uniform(static_cast<float>(options_.low_bits), static_cast<float>(options_.high_bits)));
}

void KvLayers::begin(State& s, int64_t table, double bits) const {
  s = {};
  s.table = static_cast<int32_t>(table);
  s.left = std::max(tables_[table].bytes_at(bits), least_bytes(tables_[table]));
  s.scale = std::max(kLeastKl, relaxed_kl(table, s.left));
}

// KL of the widths that a price of bytes chooses, where units may be split between the pairs on either side of it.
double KvLayers::relaxed_kl(int64_t table, int64_t budget) const {
  const KvSensitivity& t = tables_[table];
  const double price = byte_price(t, 0, budget);
  double dual = -price * static_cast<double>(budget);
  for (int64_t u = 0; u < t.units(); ++u) {
    double least = INFINITY;
    for (size_t p = 0; p < t.pairs.size(); ++p) least = std::min(least, t.kl[u][p] + price * static_cast<double>(t.unit_bytes(static_cast<int64_t>(p))));
    dual += least;
  }
  return dual;
}

bool KvLayers::allowed(const State& s, int64_t pair) const {
  const KvSensitivity& t = tables_[s.table];
  return t.unit_bytes(pair) + (t.units() - s.unit - 1) * t.unit_bytes(cheapest_pair(t)) <= s.left;
}

void KvLayers::observe(const State& s, int, ObservationRows out) const {
  const KvSensitivity& t = tables_[s.table];
  const int64_t pairs = static_cast<int64_t>(t.pairs.size()), unit = std::min<int64_t>(s.unit, t.units() - 1), remaining = std::max<int64_t>(1, t.units() - s.unit);
  const double numbers = 2.0 * static_cast<double>(t.heads_per_unit() * t.head_dim * t.page_tokens) / 8;   // of a unit's page: bytes over them are bits
  const double left = static_cast<double>(s.left) / static_cast<double>(remaining) / numbers, price = byte_price(t, s.unit, s.left);
  out.context[0] = static_cast<float>(unit) / static_cast<float>(t.units());
  out.context[1] = std::min(kMostUnits, static_cast<float>(remaining));
  out.context[2] = static_cast<float>(left);
  double least = INFINITY;
  const auto priced = [&](int64_t p) { return t.kl[unit][p] + price * static_cast<double>(t.unit_bytes(p)); };
  for (int64_t p = 0; p < pairs; ++p) least = std::min(least, priced(p));
  const double mean = s.scale / static_cast<double>(t.units());   // KL of a unit in the relaxed problem
  for (int64_t p = 0; p < pairs; ++p) {
    float* item = out.items + p * static_cast<int64_t>(spec_.critic.item.size());
    out.mask[p] = s.unit < t.units() && allowed(s, p);
    const double bits = static_cast<double>(t.unit_bytes(p)) / numbers;
    const float features[] = {static_cast<float>(t.pairs[p].key), static_cast<float>(t.pairs[p].value), static_cast<float>(bits),
                              static_cast<float>(bits - left), static_cast<float>(std::log10(std::max(kLeastKl, t.kl[unit][p]))),
                              static_cast<float>(std::max(-20.0, (least - priced(p)) / mean))};
    for (size_t i = 0; i < std::size(features); ++i) item[i] = out.mask[p] ? features[i] : 0;
  }
}

void KvLayers::act(State& s, int, const float* action) const {
  s.chosen = static_cast<int32_t>(action[0]);
  TT_CHECK(s.chosen >= 0 && s.chosen < static_cast<int32_t>(tables_[s.table].pairs.size()) && allowed(s, s.chosen), "pair {} is not allowed", s.chosen);
}

StepOutcome KvLayers::step(State& s, float* terms) const {
  const KvSensitivity& t = tables_[s.table];
  const double kl = t.kl[s.unit][s.chosen];
  s.kl += kl, s.left -= t.unit_bytes(s.chosen), s.spent += static_cast<double>(t.unit_bytes(s.chosen));
  terms[0] = static_cast<float>(-kl / s.scale);
  return {.terminated = ++s.unit == t.units()};
}

}  // namespace trimtab
