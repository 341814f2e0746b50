#include "envs/kv_precision/mode/mode.h"

#include <algorithm>
#include <cmath>

namespace trimtab {

std::vector<Feature> kv_pair_features() {
  return {{"key_bits", "bit", 0, 16}, {"value_bits", "bit", 0, 16}, {"bits", "bit", 0, 17}, {"bits_over", "bit", -17, 17},
          {"log10_kl", "lg(nat)", -9, 3}, {"price_gap", "", -kWidestGap, 0}};
}

double unit_bits(const KvSensitivity& t, int64_t bytes) {
  return 8 * static_cast<double>(bytes) / static_cast<double>(2 * t.heads_per_unit() * t.head_dim * t.page_tokens);
}

void show_pairs(const KvPairView& v, float* items, int64_t stride) {
  const KvSensitivity& t = v.table;
  const int64_t pairs = static_cast<int64_t>(t.pairs.size());
  const auto priced = [&](int64_t p) { return t.kl[v.unit][p] + v.price * static_cast<double>(t.unit_bytes(p)); };
  double least = INFINITY;
  for (int64_t p = 0; p < pairs; ++p) least = std::min(least, priced(p));
  for (int64_t p = 0; p < pairs; ++p) {
    const double bits = unit_bits(t, t.unit_bytes(p));
    const float features[] = {static_cast<float>(t.pairs[p].key), static_cast<float>(t.pairs[p].value), static_cast<float>(bits),
                              static_cast<float>(std::clamp(bits - v.bits_left, -17.0, 17.0)), static_cast<float>(std::log10(std::max(kLeastKl, t.kl[v.unit][p]))),
                              static_cast<float>(std::max(-kWidestGap, (least - priced(p)) / v.mean_kl))};
    std::copy(std::begin(features), std::end(features), items + p * stride);
  }
}

}  // namespace trimtab
