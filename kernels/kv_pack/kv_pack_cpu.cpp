// Quantising and packing on the CPU. Plain loops, one group at a time: a page is packed once and read hundreds of times.
#include "kernels/kv_pack/kv_pack.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"

namespace trimtab {
namespace {

// A group's numbers: `count` of them, `stride` apart.
struct Group {
  const float* x = nullptr;
  int64_t count = 0, stride = 1;
};
struct Affine {
  float scale = 0, zero = 0;   // x' = scale * code + zero
};

// The nearest numbers of f16 that are not below x, and not above it.
float stored_above(float x) {
  const uint16_t half = float_to_half(x);
  return half_to_float(static_cast<uint16_t>(half + (half_to_float(half) < x)));   // x >= 0
}
float stored_below(float x) {
  const uint16_t half = float_to_half(x);
  if (half_to_float(half) <= x) return half_to_float(half);
  return half_to_float(static_cast<uint16_t>(half == 0 ? 0x8001 : x < 0 ? half + 1 : half - 1));
}
float nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }   // ties to even, for |x| < 2^22

float symmetric_offset(int bits) { return static_cast<float>(1 << (bits - 1)); }

Affine fit(const Group& g, int bits, bool symmetric) {
  float low = g.x[0], high = g.x[0];
  for (int64_t i = 1; i < g.count; ++i) low = std::min(low, g.x[i * g.stride]), high = std::max(high, g.x[i * g.stride]);
  if (symmetric) {
    const float scale = stored_above(std::max({-low, high, 0.0f}) / static_cast<float>(std::max(1, (1 << (bits - 1)) - 1)));
    return {scale, -scale * symmetric_offset(bits)};
  }
  const float zero = stored_below(low);
  return {stored_above((high - zero) / static_cast<float>((1 << bits) - 1)), zero};
}

// Codes of a group, one after the other.
void quantise(const Group& g, const Affine& a, int bits, bool symmetric, uint8_t* codes) {
  const float inverse = a.scale > 0 ? 1 / a.scale : 0, most = static_cast<float>((1 << bits) - 1);
  const float zero = symmetric ? 0 : a.zero, offset = symmetric ? symmetric_offset(bits) : 0, least = symmetric ? 1 : 0;
  for (int64_t i = 0; i < g.count; ++i) {
    const float code = std::clamp((g.x[i * g.stride] - zero) * inverse + offset, least, most);
    codes[i] = static_cast<uint8_t>(static_cast<int>(nearest(code)));
  }
}

// Where codes lie: words of four codes along one axis, in rows of `across` words (kv_format.h). A byte holds 8 / bits of them.
struct Codes {
  uint8_t* data = nullptr;
  int64_t across = 0;
  int bits = 8;

  int64_t byte(int64_t along, int64_t at) const { return (along / 4 / (8 / bits) * across + at) * 4 + along % 4; }
  int shift(int64_t along) const { return static_cast<int>(along / 4 % (8 / bits)) * bits; }
  void put(int64_t along, int64_t at, int code) const { data[byte(along, at)] |= static_cast<uint8_t>(code << shift(along)); }
  int get(int64_t along, int64_t at) const { return data[byte(along, at)] >> shift(along) & ((1 << bits) - 1); }
};

uint16_t* halves(uint8_t* page, int64_t at) { return reinterpret_cast<uint16_t*>(page + at); }
const uint16_t* halves(const uint8_t* page, int64_t at) { return reinterpret_cast<const uint16_t*>(page + at); }

// Parameters of group `index` as they are stored, and back.
void keep(const KvPart& part, int64_t index, const Affine& a, uint8_t* page) {
  halves(page, part.scale)[index] = float_to_half(a.scale);
  if (part.zero >= 0) halves(page, part.zero)[index] = float_to_half(a.zero);
}
Affine kept(const KvPart& part, int64_t index, int bits, const uint8_t* page) {
  const float scale = half_to_float(halves(page, part.scale)[index]);
  return {scale, part.zero >= 0 ? half_to_float(halves(page, part.zero)[index]) : -scale * symmetric_offset(bits)};
}

// Sums of squares of what was lost and of what there was.
struct Loss {
  double lost = 0, size = 0;
  void add(float x, float packed) {
    const double difference = double{packed} - x;
    lost += difference * difference, size += double{x} * x;
  }
  float relative() const { return size > 0 ? static_cast<float>(std::sqrt(lost / size)) : 0; }
};

constexpr int64_t kMost = 512;   // of head_dim and of tokens

// What a number is divided by before it is quantised: the key's norm, or its channel's scale.
void key_norms(const KvPack& p, uint16_t* norms) {
  for (int64_t t = 0; t < p.shape.tokens; ++t) {
    double sum = 0;
    for (int64_t c = 0; c < p.shape.head_dim; ++c) sum += double{p.keys[t * p.stride + c]} * p.keys[t * p.stride + c];
    norms[t] = float_to_half(static_cast<float>(std::min<double>(std::sqrt(sum), kLargestHalf)));
  }
}
void channel_scales(const KvPack& p, uint16_t* scales) {
  for (int64_t c = 0; c < p.shape.head_dim; ++c) {
    float most = 0;
    for (int64_t t = 0; t < p.shape.tokens; ++t) most = std::max(most, std::fabs(p.values[t * p.stride + c]));
    scales[c] = float_to_half(std::sqrt(most));
  }
}
float inverse_of(uint16_t half) {
  const float x = half_to_float(half);
  return x > 0 ? 1 / x : 0;
}

float pack_keys(const KvPack& p, const KvPart& part) {
  Loss loss;
  const auto [d, tokens] = p.shape;
  const Codes codes{p.page + part.codes, tokens, p.bits.key};
  std::array<float, kMost> factor, column;
  std::array<uint8_t, kMost> code;
  factor.fill(1);
  if (part.norm >= 0) {
    key_norms(p, halves(p.page, part.norm));
    for (int64_t t = 0; t < tokens; ++t) factor[t] = inverse_of(halves(p.page, part.norm)[t]);
  }
  const bool by_channel = p.quantiser.key_groups == KeyGroups::kChannel;
  for (int64_t i = 0; i < (by_channel ? d : tokens); ++i) {
    Group group{p.keys + i * p.stride, d, 1};
    if (by_channel) {
      for (int64_t t = 0; t < tokens; ++t) column[t] = p.keys[t * p.stride + i] * factor[t];
      group = {column.data(), tokens, 1};
    }
    const Affine a = fit(group, p.bits.key, p.quantiser.symmetric);
    keep(part, i, a, p.page);
    quantise(group, a, p.bits.key, p.quantiser.symmetric, code.data());
    for (int64_t j = 0; j < group.count; ++j) {
      const int64_t c = by_channel ? i : j, token = by_channel ? j : i;
      codes.put(c, token, code[j]);
      const float norm = part.norm >= 0 ? half_to_float(halves(p.page, part.norm)[token]) : 1;
      loss.add(p.keys[token * p.stride + c], (a.scale * static_cast<float>(code[j]) + a.zero) * norm);
    }
  }
  return loss.relative();
}

float pack_values(const KvPack& p, const KvPart& part) {
  Loss loss;
  const auto [d, tokens] = p.shape;
  const int64_t size = value_group_of(p.shape, p.quantiser);
  const Codes codes{p.page + part.codes, d, p.bits.value};
  std::array<float, kMost> factor, row;
  std::array<uint8_t, kMost> code;
  factor.fill(1);
  if (part.channel >= 0) {
    channel_scales(p, halves(p.page, part.channel));
    for (int64_t c = 0; c < d; ++c) factor[c] = inverse_of(halves(p.page, part.channel)[c]);
  }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t first = 0; first < d; first += size) {
      for (int64_t i = 0; i < size; ++i) row[i] = p.values[t * p.stride + first + i] * factor[first + i];
      const Group group{row.data(), size, 1};
      const Affine a = fit(group, p.bits.value, p.quantiser.symmetric);
      keep(part, first / size * tokens + t, a, p.page);
      quantise(group, a, p.bits.value, p.quantiser.symmetric, code.data());
      for (int64_t i = 0; i < size; ++i) {
        codes.put(t, first + i, code[i]);
        const float scale = part.channel >= 0 ? half_to_float(halves(p.page, part.channel)[first + i]) : 1;
        loss.add(p.values[t * p.stride + first + i], (a.scale * static_cast<float>(code[i]) + a.zero) * scale);
      }
    }
  return loss.relative();
}

void unpack_keys(const KvUnpack& u, const KvPart& part) {
  const auto [d, tokens] = u.shape;
  const Codes codes{const_cast<uint8_t*>(u.page) + part.codes, tokens, u.bits.key};
  const bool by_channel = u.quantiser.key_groups == KeyGroups::kChannel;
  for (int64_t c = 0; c < d; ++c)
    for (int64_t t = 0; t < tokens; ++t) {
      const Affine a = kept(part, by_channel ? c : t, u.bits.key, u.page);
      const float norm = part.norm >= 0 ? half_to_float(halves(u.page, part.norm)[t]) : 1;
      u.keys[t * u.stride + c] = (a.scale * static_cast<float>(codes.get(c, t)) + a.zero) * norm;
    }
}

void unpack_values(const KvUnpack& u, const KvPart& part) {
  const auto [d, tokens] = u.shape;
  const int64_t size = value_group_of(u.shape, u.quantiser);
  const Codes codes{const_cast<uint8_t*>(u.page) + part.codes, d, u.bits.value};
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < d; ++c) {
      const Affine a = kept(part, c / size * tokens + t, u.bits.value, u.page);
      const float scale = part.channel >= 0 ? half_to_float(halves(u.page, part.channel)[c]) : 1;
      u.values[t * u.stride + c] = (a.scale * static_cast<float>(codes.get(t, c)) + a.zero) * scale;
    }
}

void copy_to_halves(const float* x, int64_t stride, const KvShape& s, uint16_t* out) {
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t c = 0; c < s.head_dim; ++c) out[t * s.head_dim + c] = float_to_half(x[t * stride + c]);
}
void copy_from_halves(const uint16_t* x, const KvShape& s, float* out, int64_t stride) {
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t c = 0; c < s.head_dim; ++c) out[t * stride + c] = half_to_float(x[t * s.head_dim + c]);
}

bool good(float x) { return std::fabs(x) <= kLargestHalf; }

// The first number that cannot be stored, in `out`.
bool find_bad(const KvPack& p, bool values, KvPackResult& out) {
  const float* x = values ? p.values : p.keys;
  for (int64_t t = 0; t < p.shape.tokens; ++t)
    for (int64_t c = 0; c < p.shape.head_dim; ++c)
      if (!good(x[t * p.stride + c])) {
        out.bad_token = t, out.bad_channel = c, out.bad_value = values;
        return true;
      }
  return false;
}

}  // namespace

KvPackResult kv_pack(const KvPack& p) {
  const KvLayout layout = kv_layout(p.shape, p.quantiser, p.bits);
  KvPackResult out;
  if (layout.bytes == 0 || find_bad(p, false, out) || find_bad(p, true, out)) return out;
  std::memset(p.page, 0, layout.bytes);
  if (p.bits.key == 16) copy_to_halves(p.keys, p.stride, p.shape, halves(p.page, layout.key.codes));
  else out.key_error = pack_keys(p, layout.key);
  if (p.bits.value == 16) copy_to_halves(p.values, p.stride, p.shape, halves(p.page, layout.value.codes));
  else out.value_error = pack_values(p, layout.value);
  return out;
}

void kv_unpack(const KvUnpack& u) {
  const KvLayout layout = kv_layout(u.shape, u.quantiser, u.bits);
  TT_CHECK(layout.bytes > 0, "an evicted page holds nothing");
  if (u.bits.key == 16) copy_from_halves(halves(u.page, layout.key.codes), u.shape, u.keys, u.stride);
  else unpack_keys(u, layout.key);
  if (u.bits.value == 16) copy_from_halves(halves(u.page, layout.value.codes), u.shape, u.values, u.stride);
  else unpack_values(u, layout.value);
}

bool kv_append(const KvShape& s, int64_t index, const float* key, const float* value, uint8_t* page) {
  TT_CHECK(index >= 0 && index < s.tokens, "token {} of {}", index, s.tokens);
  for (int64_t c = 0; c < s.head_dim; ++c)
    if (!good(key[c]) || !good(value[c])) return false;
  uint16_t *keys = halves(page, index * s.head_dim * 2), *values = keys + s.tokens * s.head_dim;
  for (int64_t c = 0; c < s.head_dim; ++c) keys[c] = float_to_half(key[c]), values[c] = float_to_half(value[c]);
  return true;
}

}  // namespace trimtab
