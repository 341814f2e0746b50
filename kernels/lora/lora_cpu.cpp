// Adapters on the CPU. All products here, those of attention too, are one tile: a few rows, wherever they lie, times a matrix that they
// share. Compiled once per instruction set.
#include "kernels/lora/lora.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lora/lora_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/product/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
// AVX-512 has 32 registers: 6 x 4 sums, 4 of b, 1 of x. The others have 16: 6 x 2 sums, 2 of b, 1 of x.
constexpr int kVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
constexpr int kMostRows = 6;           // of up to kVectors; 2 of up to twice as many
constexpr int64_t kWindow = 64;       // rows, or queries, that are looked through for those that go together
constexpr int64_t kChunk = 64;        // keys between two looks at the maximum
constexpr int64_t kQueries = 32;      // that go through a cache together
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// y[r] = sum_k x[r][k] b[k], or y[r] += scale times it. T: float, or uint16_t for bfloat16.
template <class T>
struct Product {
  int64_t inner = 0, columns = 0;
  const T* b = nullptr;       // [inner, columns]
  int64_t b_stride = 0;
  bool add = false;
  float scale = 1;
};

template <bool kPartial>
HWY_INLINE V load(const float* p, int64_t lanes) {
  return kPartial ? load_lanes(D(), p, lanes) : hn::LoadU(D(), p);
}
template <bool kPartial>
HWY_INLINE V load(const uint16_t* p, int64_t lanes) {
  const hn::Rebind<uint16_t, D> half;
  const hn::RebindToUnsigned<D> word;
  const auto widened = [&](auto halves) HWY_ATTR { return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(word, halves))); };
  if constexpr (!kPartial) return widened(hn::LoadU(half, p));
#if HWY_TARGET <= HWY_AVX3
  return widened(load_lanes(half, p, lanes));
#else
  HWY_ALIGN uint16_t part[kLanes] = {};   // masks of AVX2 are of words
  for (int64_t i = 0; i < lanes; ++i) part[i] = p[i];
  return widened(hn::Load(half, part));
#endif
}

// Whole vectors of bfloat16 are widened two by two: halves with even places, and those with odd ones, which takes no permutation.
template <class T>
constexpr bool kByParity = HWY_TARGET != HWY_SCALAR && sizeof(T) == 2;
#if HWY_TARGET != HWY_SCALAR
HWY_INLINE void load_by_parity(const uint16_t* p, V& even, V& odd) {
  const hn::RebindToUnsigned<D> word;
  const auto both = hn::BitCast(word, hn::LoadU(hn::Repartition<uint16_t, D>(), p));
  even = hn::BitCast(D(), hn::ShiftLeft<16>(both)), odd = hn::BitCast(D(), hn::And(both, hn::Set(word, 0xffff0000u)));
}
HWY_INLINE void in_order(V& even, V& odd) {
  HWY_ALIGN float both[2 * kLanes];
  hn::StoreInterleaved2(even, odd, D(), both);
  even = hn::Load(D(), both), odd = hn::Load(D(), both + kLanes);
}
#else
inline void load_by_parity(const void*, V&, V&) {}
inline void in_order(V&, V&) {}
#endif

// In a register from here on: GCC reads memory anew for every use, and a decode step waits for loads.
HWY_INLINE V kept(V v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  asm("" : "+v"(v.raw));
#endif
  return v;
}

// Few vectors: several sums by turns, or each waits for the last. By the number of vectors alone, so that rows do not know of each other.
template <int kR, int kV, bool kPartial, class T>
HWY_NOINLINE void tile(const Product<T>& p, const float* const* x, float* const* y, int64_t column, int64_t lanes) {
  const D d;
  constexpr bool kPairs = kByParity<T> && !kPartial && kV % 2 == 0;
  constexpr int kTurns = std::max(1, kVectors / kV);
  V sum[kTurns][kR][kV];
#pragma GCC unroll 4
  for (int t = 0; t < kTurns; ++t)
#pragma GCC unroll 6
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) sum[t][r][v] = hn::Zero(d);
  const float* from[kR];
#pragma GCC unroll 6
  for (int r = 0; r < kR; ++r) from[r] = x[r];
  const T* b = p.b + column;
  const auto step = [&](int t, V (&to)[kR][kV]) HWY_ATTR {
    V factor[kV];
    if constexpr (kPairs) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; v += 2) load_by_parity(b + v * kLanes, factor[v], factor[v + 1]);
    } else {
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) factor[v] = kept(kPartial && v == kV - 1 ? load<kPartial>(b + v * kLanes, lanes) : load<false>(b + v * kLanes, lanes));
    }
    b += p.b_stride;
#pragma GCC unroll 6
    for (int r = 0; r < kR; ++r) {
      const V one = hn::Set(d, from[r][t]);
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) to[r][v] = hn::MulAdd(one, factor[v], to[r][v]);
    }
  };
  int64_t left = p.inner;
  for (; left >= kTurns; left -= kTurns) {
#pragma GCC unroll 4
    for (int t = 0; t < kTurns; ++t) step(t, sum[t]);
#pragma GCC unroll 6
    for (int r = 0; r < kR; ++r) from[r] += kTurns;
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTurns; ++t)
    if (t < left) step(t, sum[t]);
  const bool add = p.add;
  const V scale = hn::Set(d, p.scale);
  float* into[kR];
#pragma GCC unroll 6
  for (int r = 0; r < kR; ++r) into[r] = y[r] + column;
#pragma GCC unroll 6
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v)
#pragma GCC unroll 4
      for (int t = 1; t < kTurns; ++t) sum[0][r][v] = hn::Add(sum[0][r][v], sum[t][r][v]);
    if constexpr (kPairs) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; v += 2) in_order(sum[0][r][v], sum[0][r][v + 1]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      float* to = into[r] + v * kLanes;
      const bool part = kPartial && v == kV - 1;
      V total = sum[0][r][v];
      if (add) total = hn::MulAdd(scale, total, part ? load<true>(to, lanes) : load<false>(to, lanes));
      if (part) store_lanes(total, d, to, lanes);
      else hn::StoreU(total, d, to);
    }
  }
}

template <int kV, bool kPartial, class T>
HWY_INLINE void panel(const Product<T>& p, int64_t rows, const float* const* x, float* const* y, int64_t column, int64_t lanes) {
  for (; rows >= kMostRows; rows -= kMostRows, x += kMostRows, y += kMostRows) tile<kMostRows, kV, kPartial>(p, x, y, column, lanes);
  if (rows >= 4) tile<4, kV, kPartial>(p, x, y, column, lanes), rows -= 4, x += 4, y += 4;
  if (rows >= 2) tile<2, kV, kPartial>(p, x, y, column, lanes), rows -= 2, x += 2, y += 2;
  if (rows >= 1) tile<1, kV, kPartial>(p, x, y, column, lanes);
}

template <int kV, class T>
HWY_INLINE void last_panel(const Product<T>& p, int64_t rows, const float* const* x, float* const* y, int64_t column) {
  const int64_t left = p.columns - column;
  if (left <= (kV - 1) * kLanes) {
    if constexpr (kV > 1) last_panel<kV - 1>(p, rows, x, y, column);
  } else if (left == kV * kLanes) {
    panel<kV, false>(p, rows, x, y, column, kLanes);
  } else {
    panel<kV, true>(p, rows, x, y, column, left - (kV - 1) * kLanes);
  }
}

template <class T>
void product(const Product<T>& p, int64_t rows, const float* const* x, float* const* y) {
  int64_t column = 0;
  if (rows <= 2) {   // registers are left, and a matrix that is read once comes in longer pieces
    for (; column + 2 * kVectors * kLanes <= p.columns; column += 2 * kVectors * kLanes) {
      if (rows == 2) tile<2, 2 * kVectors, false>(p, x, y, column, kLanes);
      else tile<1, 2 * kVectors, false>(p, x, y, column, kLanes);
    }
  }
  for (; column + kVectors * kLanes <= p.columns; column += kVectors * kLanes) panel<kVectors, false>(p, rows, x, y, column, kLanes);
  if (column < p.columns) last_panel<kVectors>(p, rows, x, y, column);
}

// With the matrix of an adapter from its column `first` on.
void product(LoraNumbers numbers, const void* b, int64_t first, const Product<float>& p, int64_t rows, const float* const* x, float* const* y) {
  if (numbers == LoraNumbers::kFloat) product<float>({p.inner, p.columns, static_cast<const float*>(b) + first, p.b_stride, p.add, p.scale}, rows, x, y);
  else product<uint16_t>({p.inner, p.columns, static_cast<const uint16_t*>(b) + first, p.b_stride, p.add, p.scale}, rows, x, y);
}

// visit(adapter, rows, n): n rows, by number, of one adapter.
template <class Visit>
void visit_segments(const LoraRows& a, const Visit& visit) {
  int64_t rows[kWindow];
  for (int64_t s = 0; s < a.segments; ++s) {
    if (a.adapter[s] < 0) continue;
    const int64_t end = std::min<int64_t>(a.last_row, a.start[s + 1]);
    for (int64_t first = std::max<int64_t>(a.first_row, a.start[s]); first < end; first += kWindow) {
      const int64_t n = std::min(kWindow, end - first);
      for (int64_t i = 0; i < n; ++i) rows[i] = first + i;
      visit(a.adapters[a.adapter[s]], rows, n);
    }
  }
}

template <class Visit>
void visit_rows(const LoraRows& a, const Visit& visit) {
  int64_t rows[kWindow];
  for (int64_t first = a.first_row; first < a.last_row; first += kWindow) {
    const int64_t n = std::min(kWindow, a.last_row - first);
    uint64_t left = 0;
    for (int64_t i = 0; i < n; ++i) left |= uint64_t{a.adapter[first + i] >= 0} << i;
    while (left != 0) {
      const int32_t adapter = a.adapter[first + std::countr_zero(left)];
      uint64_t mine = 0;   // without branches on who has which adapter, which nobody foresees
      for (int64_t i = 0; i < n; ++i) mine |= uint64_t{a.adapter[first + i] == adapter} << i;
      left &= ~mine;
      int64_t count = 0;
      for (; mine != 0; mine &= mine - 1) rows[count++] = first + std::countr_zero(mine);
      visit(a.adapters[adapter], rows, count);
    }
  }
}

template <class Visit>
void visit_adapters(const LoraRows& a, const Visit& visit) {
  if (a.start != nullptr) visit_segments(a, visit);
  else visit_rows(a, visit);
}

void shrink(const LoraShrink& s) {
  visit_adapters(s.rows, [&](const LoraAdapter& adapter, const int64_t* rows, int64_t n) {
    const float* x[kWindow];
    float* v[kWindow];
    for (int64_t i = 0; i < n; ++i) x[i] = s.x + rows[i] * s.x_stride, v[i] = s.v + rows[i] * s.v_stride;
    product(adapter.numbers, adapter.a, 0, {s.in, adapter.rank, nullptr, adapter.rank, false, 1}, n, x, v);
  });
}

void expand(const LoraExpand& e) {
  const int64_t first = e.first_panel * kLoraPanel, columns = std::min(e.out, e.last_panel * kLoraPanel) - first;
  visit_adapters(e.rows, [&](const LoraAdapter& adapter, const int64_t* rows, int64_t n) {
    if (adapter.rank == 0) return;
    const float* v[kWindow];
    float* y[kWindow];
    for (int64_t i = 0; i < n; ++i) v[i] = e.v + rows[i] * e.v_stride, y[i] = e.y + rows[i] * e.y_stride + first;
    product(adapter.numbers, adapter.b, first, {adapter.rank, columns, nullptr, e.out, true, adapter.scale}, n, v, y);
  });
}

// Queries of one cache on their way through it. What they have seen so far is exp(score - max) in `sum`, times values in their `out`,
// times z in `mixed`.
class Walk {
 public:
  Walk(const AttentionLora& a, const LoraQuery* queries, int64_t n) : a_(a), cache_(a.caches[queries[0].cache]), queries_(queries), n_(n) {
    for (int64_t i = 0; i < n_; ++i) {
      longest_ = std::max(longest_, queries_[i].keys);
      max_[i] = kNothing, sum_[i] = 0;
      std::fill(queries_[i].out, queries_[i].out + a_.head_dim, 0.0f);
      std::fill(mixed_[i], mixed_[i] + queries_[i].rank, 0.0f);
    }
  }

  // Queries that see equally much of a chunk go through it together.
  void run() {
    for (int64_t first = 0; first < longest_; first += kChunk)
      for (int64_t i = 0, end; i < n_; i = end) {
        const int64_t keys = seen(i, first);
        for (end = i + 1; end < n_ && end - i < kMostRows && seen(end, first) == keys;) ++end;
        if (keys > 0) go_through(first, keys, i, end - i);
      }
    for (int64_t i = 0; i < n_; ++i) finish(i);
  }

 private:
  int64_t seen(int64_t i, int64_t first) const { return std::clamp<int64_t>(queries_[i].keys - first, 0, kChunk); }

  void go_through(int64_t first, int64_t keys, int64_t i, int64_t n) {
    HWY_ALIGN float weights[kMostRows][kChunk];
    const float *q[kMostRows], *w[kMostRows];
    float *to[kMostRows], *out[kMostRows];
    for (int64_t block = 0; block < keys; block += kLoraKeyBlock) {
      for (int64_t r = 0; r < n; ++r) q[r] = queries_[i + r].q, to[r] = weights[r] + block;
      product<float>({a_.head_dim, kLoraKeyBlock, cache_.keys + (first + block) * a_.head_dim, kLoraKeyBlock, false, 1}, n, q, to);
    }
    for (int64_t r = 0; r < n; ++r) {
      weigh(i + r, weights[r], keys);
      w[r] = weights[r], out[r] = queries_[i + r].out;
    }
    product<float>({keys, a_.head_dim, cache_.values + first * cache_.value_stride, cache_.value_stride, true, 1}, n, w, out);
    for (int64_t r = 0, end; r < n; r = end) {   // heads of a group
      const LoraQuery& query = queries_[i + r];
      for (end = r; end < n && same_z(queries_[i + end], query); ++end) to[end] = mixed_[i + end];
      if (query.rank > 0) product<float>({keys, query.rank, query.z + first * query.z_stride, query.z_stride, true, 1}, end - r, w + r, to + r);
    }
  }

  static bool same_z(const LoraQuery& a, const LoraQuery& b) { return a.z == b.z && a.z_stride == b.z_stride && a.rank == b.rank; }

  // Scores become exp(score - maximum); what was seen before is brought to the new maximum.
  void weigh(int64_t i, float* scores, int64_t keys) {
    const D d;
    const int64_t padded = (keys + kLoraKeyBlock - 1) / kLoraKeyBlock * kLoraKeyBlock;
    std::fill(scores + keys, scores + padded, kNothing);
    V most = hn::Set(d, max_[i]);
    for (int64_t j = 0; j < padded; j += kLanes) most = hn::Max(most, hn::Load(d, scores + j));
    const float max = hn::GetLane(hn::MaxOfLanes(d, most));
    if (max != max_[i]) rescale(i, std::exp(max_[i] - max));
    max_[i] = max;
    V sum = hn::Zero(d);
    for (int64_t j = 0; j < padded; j += kLanes) {
      const V relative = hn::Sub(hn::Load(d, scores + j), hn::Set(d, max));
      const V weight = hn::IfThenElse(hn::Eq(relative, relative), hn::Exp(d, relative), relative);   // NaN stays NaN
      hn::Store(weight, d, scores + j);
      sum = hn::Add(sum, weight);
    }
    sum_[i] += hn::GetLane(hn::SumOfLanes(d, sum));
  }

  void rescale(int64_t i, float factor) {
    sum_[i] *= factor;
    for (int64_t c = 0; c < a_.head_dim; ++c) queries_[i].out[c] *= factor;
    for (int64_t c = 0; c < queries_[i].rank; ++c) mixed_[i][c] *= factor;
  }

  void finish(int64_t i) {
    const LoraQuery& query = queries_[i];
    const float* mixed = mixed_[i];
    if (query.keys == 0) return;
    if (query.rank > 0) product<float>({query.rank, a_.head_dim, query.b, query.b_stride, true, query.scale}, 1, &mixed, &query.out);
    for (int64_t c = 0; c < a_.head_dim; ++c) query.out[c] /= sum_[i];
  }

  const AttentionLora& a_;
  const LoraCache& cache_;
  const LoraQuery* queries_;
  int64_t n_, longest_ = 0;
  float max_[kQueries], sum_[kQueries], mixed_[kQueries][kLoraMostRank];
};

void attention(const AttentionLora& a) {
  for (int64_t first = 0, end; first < a.num_queries; first = end) {
    for (end = first + 1; end < a.num_queries && end - first < kQueries && a.queries[end].cache == a.queries[first].cache;) ++end;
    Walk(a, a.queries + first, end - first).run();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {

HWY_EXPORT(shrink);
HWY_EXPORT(expand);
HWY_EXPORT(attention);

namespace {

// The adapters in use fit beside `v_stride`; returns whether there is anything to do.
bool check_rows(const LoraRows& a, int64_t v_stride) {
  TT_CHECK(a.first_row >= 0 && a.first_row <= a.last_row, "rows {} to {}", a.first_row, a.last_row);
  const bool by_segments = a.start != nullptr;
  for (int64_t s = 0; by_segments && s < a.segments; ++s)
    TT_CHECK(a.start[s] >= 0 && a.start[s] <= a.start[s + 1], "segment {} is rows {} to {}", s, a.start[s], a.start[s + 1]);
  const int64_t first = by_segments ? 0 : a.first_row, last = by_segments ? a.segments : a.last_row;
  TT_CHECK(first == last || a.adapter, "the adapters of the rows are missing");
  for (int64_t i = first; i < last; ++i) {
    TT_CHECK(a.adapter[i] >= -1 && a.adapter[i] < a.num_adapters, "{} {} has adapter {} of {}", by_segments ? "segment" : "row", i, a.adapter[i], a.num_adapters);
    if (a.adapter[i] < 0) continue;
    const LoraAdapter& adapter = a.adapters[a.adapter[i]];
    TT_CHECK(adapter.rank >= 0 && adapter.rank <= v_stride, "adapter {} of rank {}, rows of v are {} apart", a.adapter[i], adapter.rank, v_stride);
    TT_CHECK(adapter.rank == 0 || (adapter.a && adapter.b), "adapter {} has no matrices", a.adapter[i]);
  }
  return a.first_row < a.last_row && first < last;
}

void check_query(const LoraQuery& q, int64_t head_dim) {
  TT_CHECK(q.cache >= 0 && q.keys >= 0 && q.q && q.out, "a query on cache {} that sees {} keys", q.cache, q.keys);
  TT_CHECK(q.rank >= 0 && q.rank <= kLoraMostRank, "rank {}: 0 to {} are built", q.rank, kLoraMostRank);
  TT_CHECK(q.rank == 0 || (q.b && q.b_stride >= head_dim && (q.keys == 0 || (q.z && q.z_stride >= q.rank))), "z or b is missing or its rows overlap");
}

}  // namespace

void lora_shrink(const LoraShrink& s) {
  TT_CHECK_GE(s.in, 0);
  if (!check_rows(s.rows, s.v_stride)) return;
  TT_CHECK(s.x_stride >= s.in && (s.x || s.in == 0) && s.v, "x of {} inputs, rows {} apart, or v is missing", s.in, s.x_stride);
  HWY_DYNAMIC_DISPATCH(shrink)(s);
}

void lora_expand(const LoraExpand& e) {
  TT_CHECK(e.out >= 0 && e.first_panel >= 0 && e.last_panel <= lora_panels(e.out), "panels {} to {} of {} outputs", e.first_panel, e.last_panel, e.out);
  if (!check_rows(e.rows, e.v_stride) || e.first_panel >= e.last_panel) return;
  TT_CHECK(e.y_stride >= e.out && e.v && e.y, "y of {} outputs, rows {} apart, or v or y is missing", e.out, e.y_stride);
  HWY_DYNAMIC_DISPATCH(expand)(e);
}

void attention_lora(const AttentionLora& a) {
  TT_CHECK(a.head_dim >= 1 && a.head_dim <= kLoraMostHead, "heads of {} numbers: 1 to {} are built", a.head_dim, kLoraMostHead);
  for (int64_t i = 0; i < a.num_queries; ++i) {
    check_query(a.queries[i], a.head_dim);
    const LoraCache& cache = a.caches[a.queries[i].cache];
    const bool whole = cache.keys && cache.values && cache.value_stride >= a.head_dim;
    TT_CHECK(a.queries[i].keys == 0 || whole, "cache {} is missing or its rows overlap", a.queries[i].cache);
  }
  HWY_DYNAMIC_DISPATCH(attention)(a);
}

}  // namespace trimtab
#endif  // HWY_ONCE
