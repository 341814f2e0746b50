#include "envs/kv_precision/layers.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "envs/kv_precision/mode/mode.h"

namespace trimtab {
namespace {

constexpr float kMostUnits = 1024;

std::vector<Feature> context_features() {
  return {{"place", "", 0, 1}, {"units_left", "", 1, kMostUnits}, {"bits_left", "bit", 0, 17}};
}

}  // namespace

void KvLayersOptions::describe(Fields& f) {
  f.choice("mode", mode, {"layers"}, "layers: widths for every layer or head, once; data are tables made by `trimtab measure`");
  f.number("low_bits", low_bits, {.low = 0, .high = 16, .unit = "bit", .doc = "smallest budget drawn, per number of packed pages, scales included"});
  f.number("high_bits", high_bits, {.low = 0, .high = 17, .unit = "bit", .doc = "largest budget drawn"});
}
void KvLayersOptions::validate() const {
  if (high_bits < low_bits) throw ConfigError(fmt::format("high_bits = {} is below low_bits = {}", high_bits, low_bits));
}

KvLayers::KvLayers(const KvLayersOptions& options, std::vector<KvSensitivity> tables) : options_(options), tables_(std::move(tables)) {
  TT_CHECK(!tables_.empty(), "no tables");
  for (const KvSensitivity& t : tables_) {
    if (t.pairs != tables_[0].pairs) throw DataError("the tables do not have the same pairs of widths: measure them with the same --pairs");
    if (t.bits(least_bytes(t)) > options.low_bits)
      throw ConfigError(fmt::format("low_bits = {}, but the cheapest widths of a table take {:.3f} bits with their scales: raise it", options.low_bits,
                                    t.bits(least_bytes(t))));
  }
  const int pairs = static_cast<int>(tables_[0].pairs.size());
  const ObservationSpec view{context_features(), kv_pair_features(), pairs};
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
  s.scale = std::max(kLeastKl, relaxed_kl(tables_[table], s.left));
}

bool KvLayers::allowed(const State& s, int64_t pair) const {
  const KvSensitivity& t = tables_[s.table];
  return t.unit_bytes(pair) + (t.units() - s.unit - 1) * t.unit_bytes(cheapest_pair(t)) <= s.left;
}

void KvLayers::observe(const State& s, int, ObservationRows out) const {
  const KvSensitivity& t = tables_[s.table];
  const int64_t pairs = static_cast<int64_t>(t.pairs.size()), unit = std::min<int64_t>(s.unit, t.units() - 1), remaining = std::max<int64_t>(1, t.units() - s.unit);
  const double left = unit_bits(t, s.left) / static_cast<double>(remaining);
  out.context[0] = static_cast<float>(unit) / static_cast<float>(t.units());
  out.context[1] = std::min(kMostUnits, static_cast<float>(remaining));
  out.context[2] = static_cast<float>(left);
  const int64_t width = static_cast<int64_t>(spec_.critic.item.size());
  show_pairs({t, unit, byte_price(t, s.unit, s.left), left, s.scale / static_cast<double>(t.units())}, out.items, width);
  for (int64_t p = 0; p < pairs; ++p) {
    out.mask[p] = s.unit < t.units() && allowed(s, p);
    if (!out.mask[p]) std::fill_n(out.items + p * width, width, 0.0f);
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
