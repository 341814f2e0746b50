// Random pages for the tests of packing and of what reads packed pages, with all that real caches do to a quantiser.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "kernels/kv_pack/kv_pack.h"

namespace trimtab {

struct PackCase {
  KvShape shape;
  KvQuantiser quantiser;
  KvBits bits;
  std::vector<float> keys, values;   // [tokens, head_dim]
  std::vector<uint8_t> page;
  float largest_key = 0, largest_value = 0;

  KvPackResult pack() { return kv_pack({shape, quantiser, bits, keys.data(), values.data(), shape.head_dim, page.data()}); }
};

// Normal numbers with an outlier channel and a sink token; or equal rows; or numbers near the least that f16 has.
inline std::vector<float> hostile_rows(const KvShape& s, Draws& draws) {
  std::vector<float> x(s.tokens * s.head_dim);
  const uint32_t kind = draws.below(6), channel = draws.below(static_cast<uint32_t>(s.head_dim)), token = draws.below(static_cast<uint32_t>(s.tokens));
  const float scale = kind == 0 ? 1e-6f : 1;
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t c = 0; c < s.head_dim; ++c) {
      float& y = x[t * s.head_dim + c];
      y = kind == 1 ? 0.25f * static_cast<float>(c) : scale * static_cast<float>(draws.normal());
      if (kind >= 3 && c == channel) y = 12 + 6 * y;
      if (kind >= 4 && t == token) y *= 20;
    }
  if (kind == 2) std::fill(x.begin(), x.end(), 0.7f);
  return x;
}

inline KvQuantiser random_quantiser(const KvShape& s, Draws& draws) {
  KvQuantiser q;
  q.key_groups = draws.below(2) == 0 ? KeyGroups::kChannel : KeyGroups::kToken;
  q.value_group = draws.below(2) == 0 ? 0 : s.head_dim % 32 == 0 && draws.below(2) == 0 ? 32 : 16;
  q.symmetric = draws.below(3) == 0;
  q.key_norm = q.key_groups == KeyGroups::kChannel && draws.below(3) == 0;
  q.value_channel_scale = draws.below(3) == 0;
  return q;
}

inline KvShape random_kv_shape(Draws& draws) {
  const int64_t dims[] = {16, 32, 48, 64, 80, 128, 256}, tokens[] = {16, 32, 48, 64};
  return {dims[draws.below(7)], tokens[draws.below(4)]};
}

inline PackCase random_pack_case(Draws& draws, const KvShape& shape, const KvQuantiser& quantiser) {
  const uint8_t widths[] = {16, 8, 4, 2};
  PackCase c{shape, quantiser, {}, {}, {}, {}};
  c.bits = {widths[draws.below(4)], widths[draws.below(4)]};
  c.keys = hostile_rows(shape, draws), c.values = hostile_rows(shape, draws);
  for (const float x : c.keys) c.largest_key = std::max(c.largest_key, std::fabs(x));
  for (const float x : c.values) c.largest_value = std::max(c.largest_value, std::fabs(x));
  c.page.assign(kv_layout(shape, quantiser, c.bits).bytes, 0xff);
  return c;
}
inline PackCase random_pack_case(Draws& draws) {
  const KvShape shape = random_kv_shape(draws);
  return random_pack_case(draws, shape, random_quantiser(shape, draws));
}

}  // namespace trimtab
