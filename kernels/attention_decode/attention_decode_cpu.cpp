// Attention on packed pages on the CPU, compiled once per instruction set. A page goes through in four steps: integer products of
// query and key codes, softmax weights, integer products of weights and value codes, scales. The two products are one function: codes
// lie in words of four along what is summed over (kv_format.h), so a vector holds one word of each of its lanes' sums.
#include "kernels/attention_decode/attention_decode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/error.h"
#include "core/half.h"

#define HWY_WANT_AVX3_DL
#include "hwy/cache_control.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512 with and without VNNI, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention_decode/attention_decode_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<D>;
using DU = hn::RebindToUnsigned<DI>;   // words of four codes
using DH = hn::Rebind<hwy::float16_t, D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;   // of sums that one query keeps in registers
constexpr int kQueries = 4;                                         // that go through a page together
constexpr int64_t kMost = 512, kMostTokens = 256;                   // of head_dim, of a page
constexpr float kPieces = 4063;                                     // 63 * 64 + 31: the largest integer of two pieces

// acc + four products in each lane; codes unsigned, pieces in -64..63, so that sums of two products fit 16 bits.
HWY_INLINE VI dot4(VI acc, VU codes, VI pieces) {
#if HWY_TARGET == HWY_AVX3_DL
  asm("vpdpbusd %2, %1, %0" : "+v"(acc.raw) : "v"(codes.raw), "v"(pieces.raw));   // Highway's flags for this target lack the intrinsic
  return acc;
#elif HWY_TARGET == HWY_AVX3
  return VI{_mm512_add_epi32(acc.raw, _mm512_madd_epi16(_mm512_maddubs_epi16(codes.raw, pieces.raw), _mm512_set1_epi16(1)))};
#elif HWY_TARGET == HWY_AVX2
  return VI{_mm256_add_epi32(acc.raw, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.raw, pieces.raw), _mm256_set1_epi16(1)))};
#else
  const DI di;
  const VI c = hn::BitCast(di, codes), mask = hn::Set(di, 0xff);
  acc = hn::Add(acc, hn::Mul(hn::And(c, mask), hn::ShiftRight<24>(hn::ShiftLeft<24>(pieces))));
  acc = hn::Add(acc, hn::Mul(hn::And(hn::ShiftRight<8>(c), mask), hn::ShiftRight<24>(hn::ShiftLeft<16>(pieces))));
  acc = hn::Add(acc, hn::Mul(hn::And(hn::ShiftRight<16>(c), mask), hn::ShiftRight<24>(hn::ShiftLeft<8>(pieces))));
  return hn::Add(acc, hn::Mul(hn::And(hn::ShiftRight<24>(c), mask), hn::ShiftRight<24>(pieces)));
#endif
}

// Integers in two pieces, 64 * high + low, each as words of four along the sum.
struct Pieces {
  alignas(64) int8_t high[kMost], low[kMost];
};

struct Products {
  const uint8_t* codes = nullptr;
  int64_t across = 0;          // words of a row
  int64_t along = 0;           // numbers summed over
  const uint8_t* ahead = nullptr;   // read next: asked for meanwhile, as many bytes as codes
};

template <int kBits, int kShift>
HWY_INLINE VU codes_of(VU words) {
  if constexpr (kBits == 8) return words;
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kShift > 0) {   // shift and mask in one: a bit matrix whose row of result bit i is in byte 7 - i
    constexpr uint64_t kRows = kBits == 4 ? 0x1020408000000000 >> 0 : (uint64_t{1} << kShift) << 56 | (uint64_t{2} << kShift) << 48;
    const auto matrix = hn::Set(hn::Repartition<uint64_t, D>(), kRows);
    VU out;
    asm("vgf2p8affineqb $0, %2, %1, %0" : "=v"(out.raw) : "v"(words.raw), "v"(matrix.raw));
    return out;
  }
#endif
  const VU mask = hn::Set(DU(), kBits == 4 ? 0x0f0f0f0fu : 0x03030303u);
  return hn::And(hn::ShiftRight<kShift>(words), mask);
}

HWY_INLINE int32_t word(const int8_t* p) {
  int32_t out;
  __builtin_memcpy(&out, p, sizeof out);
  return out;
}

// sums[q][first ..] of kV vectors for kQ queries.
template <int kBits, int kQ, int kV>
HWY_NOINLINE void product_tile(const Products& p, int64_t first, const Pieces* pieces, const uint8_t* ahead, float* const* sums) {
  const D d;
  const DI di;
  const DU du;
  constexpr int kPer = 8 / kBits;
  VI high[kQ][kV], low[kQ][kV];
#pragma GCC unroll 4
  for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) high[q][v] = low[q][v] = hn::Zero(di);
  const uint8_t* row = p.codes + first * 4;
  const int64_t rows = p.along / (4 * kPer);
  for (int64_t i = 0; i < rows; ++i, row += p.across * 4, ahead += kV * kLanes * 4) {
    VU words[kV];
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      words[v] = hn::LoadU(du, reinterpret_cast<const uint32_t*>(row) + v * kLanes);
      if (v * kLanes % 16 == 0) hwy::Prefetch(ahead + v * kLanes * 4);
    }
    const auto quad = [&](auto which) HWY_ATTR {
      constexpr int kWhich = decltype(which)::value;
      VU codes[kV];
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) codes[v] = codes_of<kBits, kWhich * kBits % 8>(words[v]);
#pragma GCC unroll 4
      for (int q = 0; q < kQ; ++q) {
        const int64_t at = (i * kPer + kWhich) * 4;
        const VI h = hn::Set(di, word(pieces[q].high + at)), l = hn::Set(di, word(pieces[q].low + at));
#pragma GCC unroll 8
        for (int v = 0; v < kV; ++v) high[q][v] = dot4(high[q][v], codes[v], h), low[q][v] = dot4(low[q][v], codes[v], l);
      }
    };
    quad(std::integral_constant<int, 0>());
    if constexpr (kPer >= 2) quad(std::integral_constant<int, 1>());
    if constexpr (kPer == 4) quad(std::integral_constant<int, 2>()), quad(std::integral_constant<int, 3>());
  }
#pragma GCC unroll 4
  for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v)
      hn::StoreU(hn::ConvertTo(d, hn::Add(hn::ShiftLeft<6>(high[q][v]), low[q][v])), d, sums[q] + first + v * kLanes);
}

template <int kBits, int kQ, int kV>
HWY_INLINE void products_from(const Products& p, int64_t first, int64_t end, const Pieces* pieces, float* const* sums) {
  for (; first + kV * kLanes <= end; first += kV * kLanes)
    product_tile<kBits, kQ, kV>(p, first, pieces, p.ahead + first * 4 * (p.along / (4 * (8 / kBits))), sums);
  if constexpr (kV > 1) products_from<kBits, kQ, kV / 2>(p, first, end, pieces, sums);
}

// sums[q][i] = sum over the other axis of integer times code, for i in [first, end): multiples of 16.
template <int kQ>
void products(int bits, const Products& p, int64_t first, int64_t end, const Pieces* pieces, float* const* sums) {
  constexpr int kV = kQ == 1 ? kVectors : kQ == 2 ? kVectors / 2 : std::max(1, kVectors / 4);
  switch (bits) {
    case 8: return products_from<8, kQ, kV>(p, first, end, pieces, sums);
    case 4: return products_from<4, kQ, kV>(p, first, end, pieces, sums);
    default: return products_from<2, kQ, kV>(p, first, end, pieces, sums);
  }
}

HWY_INLINE V halves_at(const uint8_t* page, int64_t at, int64_t index) {
  return hn::PromoteTo(D(), hn::LoadU(DH(), reinterpret_cast<const hwy::float16_t*>(page + at) + index));
}

// Adding this leaves the nearest integer in the last bits of a float, for numbers below 2^22.
constexpr float kToInteger = 0x1.8p23f;
constexpr int32_t kToIntegerBits = 0x4b400000;

HWY_INLINE void store_bytes(VI x, int8_t* to) {
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(x.raw));
#else
  const hn::Rebind<int8_t, D> d8;
  hn::StoreU(hn::DemoteTo(d8, x), d8, to);
#endif
}

// x as integers times the result.
float to_pieces(const float* x, int64_t n, Pieces& out) {
  const D d;
  const DI di;
  V most = hn::Zero(d);
  for (int64_t i = 0; i < n; i += kLanes) most = hn::Max(most, hn::Abs(hn::Load(d, x + i)));
  const float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  const V factor = hn::Set(d, largest > 1e-30f ? kPieces / largest : 0.0f);   // below, the quotient may overflow and the sum is nothing
  for (int64_t i = 0; i < n; i += kLanes) {
    const VI whole = hn::Sub(hn::BitCast(di, hn::MulAdd(hn::Load(d, x + i), factor, hn::Set(d, kToInteger))), hn::Set(di, kToIntegerBits));
    const VI high = hn::ShiftRight<6>(hn::Add(whole, hn::Set(di, 32)));
    store_bytes(high, out.high + i);
    store_bytes(hn::Sub(whole, hn::ShiftLeft<6>(high)), out.low + i);
  }
  return largest / kPieces;
}

struct PageView {
  const KvPage* page = nullptr;
  const KvLayout* layout = nullptr;
  KvShape shape;
  KvQuantiser quantiser;
  const uint8_t* next = nullptr;   // the page after the next: asked for while this one's values are mixed
  int tokens() const { return page->tokens; }
};

// What turns sums of products into scores: score = factor * sum + bias, by token where parameters are.
struct Line {
  float factor = 0, bias = 0;
};

float symmetric_offset(int bits) { return static_cast<float>(1 << (bits - 1)); }

// The query times the page's scales.
Line prepare_query(const PageView& v, const float* query, Pieces& pieces) {
  const D d;
  const KvPart& part = v.layout->key;
  alignas(64) float scaled[kMost];
  V bias = hn::Zero(d);
  const bool by_channel = v.quantiser.key_groups == KeyGroups::kChannel;
  for (int64_t i = 0; i < v.shape.head_dim; i += kLanes) {
    const V q = hn::LoadU(d, query + i);
    const V s = by_channel ? hn::Mul(q, halves_at(v.page->data, part.scale, i)) : q;
    hn::Store(s, d, scaled + i);
    bias = by_channel && part.zero >= 0 ? hn::MulAdd(q, halves_at(v.page->data, part.zero, i), bias) : hn::Add(bias, s);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, bias));
  const bool is_sum = !by_channel || part.zero < 0;   // of the scaled query, still to meet the zero point
  const float symmetric = -symmetric_offset(v.page->bits.key);
  return {to_pieces(scaled, v.shape.head_dim, pieces), is_sum && part.zero < 0 ? sum * symmetric : sum};
}

void scores_from_sums(const PageView& v, Line line, float* scores) {
  const D d;
  const KvPart& part = v.layout->key;
  const bool by_token = v.quantiser.key_groups == KeyGroups::kToken;
  for (int64_t t = 0; t < v.shape.tokens; t += kLanes) {
    V s = hn::Mul(hn::Load(d, scores + t), hn::Set(d, line.factor));
    if (by_token) {
      const V scale = halves_at(v.page->data, part.scale, t);
      const V zero = part.zero >= 0 ? halves_at(v.page->data, part.zero, t) : scale;   // symmetric: bias has the offset
      s = hn::MulAdd(s, scale, hn::Mul(hn::Set(d, line.bias), zero));
    } else {
      s = hn::Add(s, hn::Set(d, line.bias));
      if (part.norm >= 0) s = hn::Mul(s, halves_at(v.page->data, part.norm, t));
    }
    hn::Store(s, d, scores + t);
  }
}

// Scores of 16-bit keys: rows of f16.
template <int kQ>
void score_rows(const PageView& v, const float* const* queries, float* const* scores) {
  const D d;
  const int64_t n = v.shape.head_dim;
  const uint8_t* row = v.page->data + v.layout->key.codes;
  const uint8_t* ahead = v.page->data + v.layout->value.codes;
  constexpr int kKeys = kQ == 1 ? 4 : kQ == 2 ? 2 : 1;
  int t = 0;
  const auto rows = [&](auto keys) HWY_ATTR {
    constexpr int kK = decltype(keys)::value;
    V sum[kQ][kK];
#pragma GCC unroll 4
    for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 4
      for (int k = 0; k < kK; ++k) sum[q][k] = hn::Zero(d);
    for (int64_t i = 0; i < n; i += kLanes) {
#pragma GCC unroll 4
      for (int k = 0; k < kK; ++k) {
        const V key = halves_at(row, k * n * 2, i);
        if (i * 2 % 64 == 0) hwy::Prefetch(ahead + (k * n + i) * 2);
#pragma GCC unroll 4
        for (int q = 0; q < kQ; ++q) sum[q][k] = hn::MulAdd(hn::LoadU(d, queries[q] + i), key, sum[q][k]);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kK; ++k)
#pragma GCC unroll 4
      for (int q = 0; q < kQ; ++q) scores[q][t + k] = hn::GetLane(hn::SumOfLanes(d, sum[q][k]));
    t += kK, row += kK * n * 2, ahead += kK * n * 2;
  };
  while (t + kKeys <= v.tokens()) rows(std::integral_constant<int, kKeys>());
  while (t < v.tokens()) rows(std::integral_constant<int, 1>());
}

template <int kQ>
void score_page(const PageView& v, const float* const* queries, float* const* scores) {
  if (v.page->bits.key == 16) return score_rows<kQ>(v, queries, scores);
  Pieces pieces[kQ];
  Line line[kQ];
  for (int q = 0; q < kQ; ++q) line[q] = prepare_query(v, queries[q], pieces[q]);
  products<kQ>(v.page->bits.key, {v.page->data + v.layout->key.codes, v.shape.tokens, v.shape.head_dim, v.page->data + v.layout->value.codes}, 0,
               v.shape.tokens, pieces, scores);
  for (int q = 0; q < kQ; ++q) scores_from_sums(v, line[q], scores[q]);
}

// Scores become exp(score - max); the state's maximum, sum and output follow. Places behind the last key become 0.
void weigh(const PageView& v, AttentionState& state, float* scores) {
  const D d;
  const int64_t whole = (v.tokens() + 15) / 16 * 16;
  std::fill(scores + v.tokens(), scores + whole, -std::numeric_limits<float>::infinity());
  V most = hn::Set(d, state.max);
  for (int64_t t = 0; t < whole; t += kLanes) most = hn::Max(most, hn::Load(d, scores + t));
  if (!hn::AllTrue(d, hn::Eq(most, hn::Set(d, state.max)))) {   // seldom
    const float max = hn::GetLane(hn::MaxOfLanes(d, most));
    const V factor = hn::Set(d, std::exp(state.max - max));
    for (int64_t i = 0; i < v.shape.head_dim; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, state.out + i), factor), d, state.out + i);
    state.sum *= hn::GetLane(factor), state.max = max;
  }
  V sum = hn::Zero(d);
  for (int64_t t = 0; t < whole; t += kLanes) {
    const V e = hn::Exp(d, hn::Sub(hn::Load(d, scores + t), hn::Set(d, state.max)));
    hn::Store(e, d, scores + t);
    sum = hn::Add(sum, e);
  }
  if (whole < v.shape.tokens) std::fill(scores + whole, scores + v.shape.tokens, 0.0f);
  state.sum += hn::GetLane(hn::SumOfLanes(d, sum));
}

// out += sum_t weight_t * row_t of 16-bit values.
template <int kQ, int kV>
HWY_INLINE void mix_tile(const PageView& v, int64_t first, const float* const* weights, const uint8_t* ahead, const AttentionState* states) {
  const D d;
  V sum[kQ][kV];
#pragma GCC unroll 4
  for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 8
    for (int i = 0; i < kV; ++i) sum[q][i] = hn::LoadU(d, states[q].out + first + i * kLanes);
  const uint8_t* values = v.page->data + v.layout->value.codes;
  for (int t = 0; t < v.tokens(); ++t, ahead += kV * kLanes * 2) {
    V value[kV];
#pragma GCC unroll 8
    for (int i = 0; i < kV; ++i) {
      value[i] = halves_at(values, t * v.shape.head_dim * 2, first + i * kLanes);
      if (i * kLanes % 32 == 0) hwy::Prefetch(ahead + i * kLanes * 2);
    }
#pragma GCC unroll 4
    for (int q = 0; q < kQ; ++q) {
      const V weight = hn::Set(d, weights[q][t]);
#pragma GCC unroll 8
      for (int i = 0; i < kV; ++i) sum[q][i] = hn::MulAdd(weight, value[i], sum[q][i]);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < kQ; ++q)
#pragma GCC unroll 8
    for (int i = 0; i < kV; ++i) hn::StoreU(sum[q][i], d, states[q].out + first + i * kLanes);
}

template <int kQ, int kV>
void mix_rows(const PageView& v, int64_t first, const float* const* weights, const AttentionState* states) {
  for (; first + kV * kLanes <= v.shape.head_dim; first += kV * kLanes)
    mix_tile<kQ, kV>(v, first, weights, v.next + first * 2 * v.shape.tokens, states);
  if constexpr (kV > 1) mix_rows<kQ, kV / 2>(v, first, weights, states);
}

// One group's weights times its scales, in pieces; the bias gathers weights times zero points.
Line prepare_weights(const PageView& v, int64_t group, const float* weights, Pieces& pieces) {
  const D d;
  const KvPart& part = v.layout->value;
  alignas(64) float scaled[kMost];
  V bias = hn::Zero(d);
  for (int64_t t = 0; t < v.shape.tokens; t += kLanes) {
    const V w = hn::Load(d, weights + t), s = hn::Mul(w, halves_at(v.page->data, part.scale, group * v.shape.tokens + t));
    hn::Store(s, d, scaled + t);
    bias = part.zero >= 0 ? hn::MulAdd(w, halves_at(v.page->data, part.zero, group * v.shape.tokens + t), bias) : hn::Add(bias, s);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, bias));
  return {to_pieces(scaled, v.shape.tokens, pieces), part.zero >= 0 ? sum : -symmetric_offset(v.page->bits.value) * sum};
}

void add_values(const PageView& v, int64_t first, int64_t end, Line line, const float* sums, float* out) {
  const D d;
  const KvPart& part = v.layout->value;
  for (int64_t i = first; i < end; i += kLanes) {
    V x = hn::MulAdd(hn::Load(d, sums + i), hn::Set(d, line.factor), hn::Set(d, line.bias));
    if (part.channel >= 0) x = hn::Mul(x, halves_at(v.page->data, part.channel, i));
    hn::StoreU(hn::Add(hn::LoadU(d, out + i), x), d, out + i);
  }
}

template <int kQ>
void mix_page(const PageView& v, const float* const* weights, const AttentionState* states) {
  if (v.page->bits.value == 16) return mix_rows<kQ, kQ == 1 ? kVectors : kVectors / 2>(v, 0, weights, states);
  const int64_t group = value_group_of(v.shape, v.quantiser);
  alignas(64) float room[kQ][kMost];
  float* sums[kQ];
  Pieces pieces[kQ];
  Line line[kQ];
  for (int q = 0; q < kQ; ++q) sums[q] = room[q];
  for (int64_t first = 0; first < v.shape.head_dim; first += group) {
    for (int q = 0; q < kQ; ++q) line[q] = prepare_weights(v, first / group, weights[q], pieces[q]);
    products<kQ>(v.page->bits.value, {v.page->data + v.layout->value.codes, v.shape.head_dim, v.shape.tokens, v.next}, first, first + group, pieces, sums);
    for (int q = 0; q < kQ; ++q) add_values(v, first, first + group, line[q], sums[q], states[q].out);
  }
}

// Of the page to come, as if it were like this one: they are needed first, and lie behind its codes.
void ask_for_parameters(const PageView& v) {
  const int64_t codes = v.shape.head_dim * v.shape.tokens * (v.page->bits.key + v.page->bits.value) / 8;
  for (int64_t at = codes / 64 * 64; at < v.layout->bytes; at += 64) hwy::Prefetch(v.next + at);
}

// Some queries at one page.
struct Visit {
  int64_t page = 0, first = 0, count = 0;
  PageView view;
  alignas(64) float room[kQueries][kMostTokens];
  float* scores[kQueries] = {room[0], room[1], room[2], room[3]};
};

template <class Stage>
HWY_INLINE void with_count(int64_t count, const Stage& stage) {
  switch (count) {
    case 1: return stage(std::integral_constant<int, 1>());
    case 2: return stage(std::integral_constant<int, 2>());
    case 3: return stage(std::integral_constant<int, 3>());
    default: stage(std::integral_constant<int, 4>());
  }
}

void keep_weights(const AttentionDecode& a, const Visit& v) {
  for (int64_t q = 0; q < v.count; ++q) {
    float* kept = a.weights + (v.first + q) * a.weight_stride + v.page * weights_per_page(a.shape);
    std::copy(v.scores[q], v.scores[q] + a.shape.tokens, kept);
    kept[a.shape.tokens] = a.states[v.first + q].max;
  }
}

// All visits, page by page. The scores of a visit are begun before the values of the one before it are mixed: each of the stages is
// a chain of instructions that wait for each other, and the processor fills one chain's waiting with the other.
class Attention {
 public:
  explicit Attention(const AttentionDecode& a) : a_(a), pages_(static_cast<int64_t>(a.pages.size())), queries_(static_cast<int64_t>(a.queries.size())) {}

  void run() {
    Visit visits[2];
    int now = 0;
    if (!next(visits[now])) return;
    score(visits[now]);
    for (bool more = true; more; now = 1 - now) {
      Visit& v = visits[now];
      for (int64_t q = 0; q < v.count; ++q) weigh(v.view, a_.states[v.first + q], v.scores[q]);
      if (a_.weights != nullptr) keep_weights(a_, v);
      more = next(visits[1 - now]);
      if (more) score(visits[1 - now]);
      with_count(v.count, [&](auto n) HWY_ATTR { mix_page<decltype(n)::value>(v.view, v.scores, a_.states.data() + v.first); });
    }
  }

 private:
  bool next(Visit& v) {
    if (first_ >= queries_) ++page_, first_ = 0;
    while (page_ < pages_ && a_.pages[page_].bits == KvBits{0, 0}) ++page_;
    if (page_ >= pages_ || queries_ == 0) return false;
    const KvPage& page = a_.pages[page_];
    v.page = page_, v.first = first_, v.count = std::min<int64_t>(kQueries, queries_ - first_);
    v.view = {&page, &layout_of(page.bits), a_.shape, a_.quantiser, a_.pages[std::min(page_ + 2, pages_ - 1)].data};
    if (first_ == 0) ask_for_parameters(v.view);
    first_ += v.count;
    return true;
  }
  void score(Visit& v) {
    with_count(v.count, [&](auto n) HWY_ATTR { score_page<decltype(n)::value>(v.view, a_.queries.data() + v.first, v.scores); });
  }

  // Of each pair of widths, worked out when it first occurs.
  const KvLayout& layout_of(KvBits bits) {
    KvLayout& out = layouts_[std::countr_zero(unsigned{bits.key}) - 1][std::countr_zero(unsigned{bits.value}) - 1];
    if (out.bytes == 0) out = kv_layout(a_.shape, a_.quantiser, bits);
    return out;
  }

  const AttentionDecode& a_;
  int64_t pages_, queries_, page_ = 0, first_ = 0;
  KvLayout layouts_[4][4];   // 2, 4, 8, 16 bits
};

void attention(const AttentionDecode& a) { Attention(a).run(); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {

HWY_EXPORT(attention);

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

bool finite(const float* x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * 0;
  return sum == 0;
}

void check(const AttentionDecode& a) {
  TT_CHECK_EQ(a.queries.size(), a.states.size());
  if (a.weights != nullptr) TT_CHECK(a.weight_stride >= attention_weights(static_cast<int64_t>(a.pages.size()), a.shape), "weights of {}", a.weight_stride);
  for (const KvPage& p : a.pages) {
    if (p.bits == KvBits{0, 0}) continue;
    TT_CHECK(p.data != nullptr && p.tokens >= 1 && p.tokens <= a.shape.tokens, "a page of {} tokens", p.tokens);
    TT_CHECK(p.tokens == a.shape.tokens || p.bits == KvBits{}, "a packed page of {} tokens: packed pages are whole", p.tokens);
  }
}

}  // namespace

void begin_attention(std::span<AttentionState> states, int64_t head_dim) {
  for (AttentionState& s : states) {
    s.max = kNothing, s.sum = 0;
    std::fill(s.out, s.out + head_dim, 0.0f);
  }
}

void attention_decode(const AttentionDecode& a) {
  check(a);
  HWY_DYNAMIC_DISPATCH(attention)(a);
  for (size_t q = 0; q < a.queries.size(); ++q)
    if (!finite(a.queries[q], a.shape.head_dim)) a.states[q].sum = NAN;
}

void merge_attention(const AttentionState& from, int64_t head_dim, AttentionState& into) {
  if (from.max == kNothing && from.sum == 0) return;
  const float max = std::max(from.max, into.max), mine = std::exp(into.max - max), theirs = std::exp(from.max - max);
  for (int64_t i = 0; i < head_dim; ++i) into.out[i] = into.out[i] * mine + from.out[i] * theirs;
  into.sum = into.sum * mine + from.sum * theirs, into.max = max;
}

void finish_attention(std::span<AttentionState> states, int64_t head_dim) {
  for (AttentionState& s : states) {
    const float factor = s.sum == 0 ? 0 : 1 / s.sum;
    for (int64_t i = 0; i < head_dim; ++i) s.out[i] *= factor;
  }
}

void attention_statistics(const AttentionDecode& a, const AttentionStatistics& out) {
  TT_CHECK(a.weights != nullptr, "statistics need the weights of the call");
  const int64_t slot = weights_per_page(a.shape);
  for (size_t q = 0; q < a.queries.size(); ++q) {
    const AttentionState& state = a.states[q];
    double squares = 0;
    int64_t key = 0;
    for (size_t p = 0; p < a.pages.size(); ++p) {
      const KvPage& page = a.pages[p];
      if (page.bits == KvBits{0, 0}) continue;
      const float* kept = a.weights + static_cast<int64_t>(q) * a.weight_stride + static_cast<int64_t>(p) * slot;
      const float factor = std::exp(kept[a.shape.tokens] - state.max) / state.sum;
      float mass = 0;
      for (int32_t t = 0; t < page.tokens; ++t, ++key) {
        const float weight = kept[t] * factor;
        mass += weight, squares += double{weight} * weight;
        if (out.mass) out.mass[key] += weight;
      }
      if (out.page_mass) out.page_mass[p] += mass;
      if (out.page_error) out.page_error[p] += mass * page.value_error;
    }
    if (out.squares) out.squares[q] += static_cast<float>(squares);
  }
}

}  // namespace trimtab
#endif  // HWY_ONCE
