// Attention on a two-piece cache on the CPU: all scores of a query, their softmax, then the values. Compiled once per
// instruction set.
#include "kernels/two_piece_attention/two_piece_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "hwy/cache_control.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/two_piece_attention/two_piece_attention_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kBlockVectors = static_cast<int>(kKeyBlock) / kLanes;
constexpr int kQueries = kLanes == 16 ? 4 : 2;                     // that go through shared keys together
constexpr int kBlocks = kLanes == 16 ? 4 : kLanes == 8 ? 2 : 1;    // of keys at a time
constexpr int64_t kAheadKeys = 32;                                 // how far values are asked for before they are used
constexpr float kNever = -1e30f;                                   // the score of a key that is not there

// Scores of kQ queries with 16 kB keys. Asks for as much memory from `ahead` on: what is read next.
template <int kQ, int kB>
HWY_NOINLINE void score_tile(const float* const* q, const float* keys, int64_t head_dim, const float* ahead, float* scores, int64_t score_stride) {
  const D d;
  constexpr int kV = kB * kBlockVectors;
  V sum[kQ][kV];
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) sum[i][v] = hn::Zero(d);
  const int64_t block = head_dim * kKeyBlock;
  for (int64_t k = 0; k < head_dim; ++k, keys += kKeyBlock, ahead += kKeyBlock) {
    V key[kV];
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) key[v] = hn::LoadU(d, keys + v / kBlockVectors * block + v % kBlockVectors * kLanes);
#pragma GCC unroll 4
    for (int b = 0; b < kB; ++b) hwy::Prefetch(ahead + b * block);
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
      const V factor = hn::Set(d, q[i][k]);
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) sum[i][v] = hn::MulAdd(factor, key[v], sum[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) hn::StoreU(sum[i][v], d, scores + i * score_stride + v * kLanes);
}

template <int kQ, int kB>
HWY_INLINE void score_rest(const float* const* q, const float* keys, int64_t blocks, int64_t head_dim, const float* values, float* scores,
                           int64_t score_stride) {
  if (blocks == kB) return score_tile<kQ, kB>(q, keys, head_dim, values, scores, score_stride);
  if constexpr (kB > 1) score_rest<kQ, kB - 1>(q, keys, blocks, head_dim, values, scores, score_stride);
}

// `values` are what is read after the keys.
template <int kQ>
void score(const float* const* q, const float* keys, const float* values, int64_t num_keys, int64_t head_dim, float* scores, int64_t score_stride) {
  int64_t blocks = key_blocks_of(num_keys);
  const int64_t step = kBlocks * head_dim * kKeyBlock;
  for (; blocks > kBlocks; blocks -= kBlocks, keys += step, scores += kBlocks * kKeyBlock)
    score_tile<kQ, kBlocks>(q, keys, head_dim, keys + step, scores, score_stride);
  score_rest<kQ, kBlocks>(q, keys, blocks, head_dim, values, scores, score_stride);
}

HWY_INLINE void close_piece(float* scores, int64_t keys) { std::fill(scores + keys, scores + key_blocks_of(keys) * kKeyBlock, kNever); }

// Whole blocks: places behind the last key become 0 in the end, as a longer query beside this one reads them.
HWY_INLINE V largest(V most, const float* scores, int64_t keys) {
  const D d;
  for (int64_t j = 0; j < key_blocks_of(keys) * kKeyBlock; j += kLanes) most = hn::Max(most, hn::LoadU(d, scores + j));
  return most;
}

HWY_INLINE V exponentials(V sum, V max, float* scores, int64_t keys) {
  const D d;
  for (int64_t j = 0; j < key_blocks_of(keys) * kKeyBlock; j += kLanes) {
    const V e = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + j), max));
    hn::StoreU(e, d, scores + j);
    sum = hn::Add(sum, e);
  }
  return sum;
}

// Scores become exp(score - max); returns 1 / their sum. `width`: of the shared piece's place, whose unused end becomes 0.
float softmax(float* scores, int64_t shared, int64_t width, int64_t own) {
  const D d;
  float* own_scores = scores + width;
  close_piece(scores, shared);
  close_piece(own_scores, own);
  const V max = hn::MaxOfLanes(d, largest(largest(hn::Set(d, kNever), scores, shared), own_scores, own));
  const V sum = exponentials(exponentials(hn::Zero(d), max, scores, shared), max, own_scores, own);
  const int64_t used = key_blocks_of(shared) * kKeyBlock;
  std::fill(scores + used, scores + std::max(used, width), 0.0f);
  return 1 / hn::GetLane(hn::SumOfLanes(d, sum));
}

// out = sum_j p_j v_j of kQ queries, for kV vectors of the head. Few vectors: several sums in turn, or each waits for the last.
template <int kQ, int kV>
HWY_INLINE void mix_tile(const float* p, int64_t p_stride, const float* values, int64_t keys, int64_t stride, float* const* out) {
  const D d;
  constexpr int kTurns = kV >= 3 ? 1 : 4 / kV;
  V sum[kTurns][kQ][kV];
#pragma GCC unroll 4
  for (int t = 0; t < kTurns; ++t)
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) sum[t][i][v] = hn::Zero(d);
  const auto add = [&](int64_t j, V (&to)[kQ][kV]) HWY_ATTR {
    V value[kV];
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      value[v] = hn::LoadU(d, values + j * stride + v * kLanes);
      if (v * kLanes % 16 == 0) hwy::Prefetch(values + (j + kAheadKeys) * stride + v * kLanes);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
      const V factor = hn::Set(d, p[i * p_stride + j]);
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) to[i][v] = hn::MulAdd(factor, value[v], to[i][v]);
    }
  };
  int64_t j = 0;
  for (; j + kTurns <= keys; j += kTurns)
#pragma GCC unroll 4
    for (int t = 0; t < kTurns; ++t) add(j + t, sum[t]);
#pragma GCC unroll 4
  for (int t = 0; t < kTurns; ++t)
    if (j + t < keys) add(j + t, sum[t]);
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      V total = sum[0][i][v];
#pragma GCC unroll 4
      for (int t = 1; t < kTurns; ++t) total = hn::Add(total, sum[t][i][v]);
      hn::StoreU(total, d, out[i] + v * kLanes);
    }
}

template <int kQ>
void mix(const float* p, int64_t p_stride, const float* values, int64_t keys, int64_t padded, float* const* out) {
  for (int64_t first = 0; first < padded; first += 4 * kLanes) {
    float* to[kQ];
    for (int i = 0; i < kQ; ++i) to[i] = out[i] + first;
    switch (std::min<int64_t>(4, (padded - first) / kLanes)) {
      case 1: mix_tile<kQ, 1>(p, p_stride, values + first, keys, padded, to); break;
      case 2: mix_tile<kQ, 2>(p, p_stride, values + first, keys, padded, to); break;
      case 3: mix_tile<kQ, 3>(p, p_stride, values + first, keys, padded, to); break;
      default: mix_tile<kQ, 4>(p, p_stride, values + first, keys, padded, to);
    }
  }
}

// Adds the query's own piece and divides by the sum.
void finish_query(const AttentionQuery& query, const float* own_scores, float factor, int64_t padded) {
  const D d;
  constexpr int64_t kChunk = 512;
  HWY_ALIGN float own[kChunk];
  float* const to[1] = {own};
  if (query.own > 0) mix<1>(own_scores, 0, query.values, query.own, padded, to);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const V shared = hn::LoadU(d, query.out + i), more = query.own > 0 ? hn::Load(d, own + i) : hn::Zero(d);
    hn::StoreU(hn::Mul(hn::Add(shared, more), hn::Set(d, factor)), d, query.out + i);
  }
}

// The cache of a sequence comes from afar in pieces too short for the processor's own prefetching. Only the beginning: what is
// read from there on asks ahead itself.
HWY_INLINE void ask_for_keys(const AttentionQuery& query, int64_t head_dim) {
  const int64_t n = std::min<int64_t>(2048, key_blocks_of(query.own) * kKeyBlock * head_dim);
  for (int64_t i = 0; i < n; i += 16) hwy::Prefetch(query.keys + i);
}

template <int kQ>
void attend(const TwoPieceAttention& a, const AttentionQuery* queries, const AttentionQuery* end, float* scores) {
  const float* q[kQ];
  float* out[kQ];
  float factor[kQ];
  int64_t most = 0;
  for (int i = 0; i < kQ; ++i) q[i] = queries[i].q, out[i] = queries[i].out, most = std::max(most, queries[i].shared);
  const int64_t width = key_blocks_of(most) * kKeyBlock, padded = padded_head_dim(a.head_dim);
  score<kQ>(q, a.shared_keys, a.shared_values, most, a.head_dim, scores, a.score_stride);
  for (int i = 0; i < kQ; ++i) {
    float* mine = scores + i * a.score_stride;
    if (queries + i + 1 < end) ask_for_keys(queries[i + 1], a.head_dim);
    score<1>(q + i, queries[i].keys, queries[i].values, queries[i].own, a.head_dim, mine + width, a.score_stride);
    factor[i] = softmax(mine, queries[i].shared, width, queries[i].own);
  }
  mix<kQ>(scores, a.score_stride, a.shared_values, most, padded, out);
  for (int i = 0; i < kQ; ++i) finish_query(queries[i], scores + i * a.score_stride + width, factor[i], padded);
}

void attention(const TwoPieceAttention& a) {
  const int64_t n = static_cast<int64_t>(a.queries.size());
  int64_t i = 0;
  for (; i + kQueries <= n; i += kQueries) attend<kQueries>(a, a.queries.data() + i, a.queries.data() + n, a.scores);
  for (; i < n; ++i) attend<1>(a, a.queries.data() + i, a.queries.data() + n, a.scores);
}

float norm_factor(const HeadPreparation& p, const float* x) {
  const D d;
  V sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= p.head_dim; i += kLanes) sum = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, x + i), sum);
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < p.head_dim; ++i) total += x[i] * x[i];
  return 1 / std::sqrt(total / static_cast<float>(p.head_dim) + p.epsilon);
}

void prepare(const HeadPreparation& p, float* x) {
  const D d;
  const int64_t half = p.head_dim / 2;
  if (p.norm != nullptr) {
    const float factor = norm_factor(p, x);
    for (int64_t i = 0; i < p.head_dim; ++i) x[i] = x[i] * factor * p.norm[i];
  }
  const V scale = hn::Set(d, p.scale);
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const V a = hn::Mul(hn::LoadU(d, x + i), scale), b = hn::Mul(hn::LoadU(d, x + half + i), scale);
    const V c = hn::LoadU(d, p.cosine + i), s = hn::LoadU(d, p.sine + i);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), d, x + i);
    hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), d, x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i] * p.scale, b = x[half + i] * p.scale;
    x[i] = a * p.cosine[i] - b * p.sine[i];
    x[half + i] = b * p.cosine[i] + a * p.sine[i];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {

HWY_EXPORT(attention);
HWY_EXPORT(prepare);

void prepare_head(const HeadPreparation& p, float* head) {
  TT_CHECK(p.head_dim % 2 == 0 && p.cosine && p.sine, "head_dim {}", p.head_dim);
  HWY_DYNAMIC_DISPATCH(prepare)(p, head);
}

void write_key_value(int64_t index, int64_t head_dim, const float* key, const float* value, float* keys, float* values) {
  const int64_t padded = padded_head_dim(head_dim);
  float* k = keys + index / kKeyBlock * kKeyBlock * head_dim + index % kKeyBlock;
  for (int64_t i = 0; i < head_dim; ++i) k[i * kKeyBlock] = key[i];
  float* v = values + index * padded;
  std::memcpy(v, value, static_cast<size_t>(head_dim) * sizeof(float));
  std::fill(v + head_dim, v + padded, 0.0f);
}

void two_piece_attention(const TwoPieceAttention& a) {
  TT_CHECK(a.head_dim >= 1 && a.head_dim <= 512, "heads of {} numbers: 1 to 512 are built", a.head_dim);
  for (const AttentionQuery& q : a.queries) {
    TT_CHECK(q.shared + q.own > 0, "a query without keys");
    TT_CHECK_LE(attention_scores(q.shared, q.own), a.score_stride);
  }
  HWY_DYNAMIC_DISPATCH(attention)(a);
}

}  // namespace trimtab
#endif  // HWY_ONCE
