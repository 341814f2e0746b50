// Trie attention on the CPU: every product of a tile is one register-tiled product (kernels/product). Keys and values that are
// multiplied along the head are transposed once per chunk of keys and then read by all rows that see them.
// Compiled once per instruction set.
#include "kernels/trie_attention/trie_attention.h"

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)   // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/trie_attention/trie_attention_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/product/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A tile: 48 rows (8 tiles of registers) of 128 keys, 24 kB of scores in f32.
constexpr int64_t kRows = 48, kKeys = 128;

// Keys key..key+num_keys-1 of a segment, in a piece small enough for the caches.
struct Chunk {
  int64_t key, num_keys, end;   // rows key..end-1 see it, those of the chunk itself causally
  bool first;                   // no row that sees it has seen a key before
};
template <class Visit>
void for_each_chunk(const AttentionSegment* segments, int64_t num_segments, const Visit& visit) {
  for (const AttentionSegment* s = segments; s < segments + num_segments; ++s)
    for (int64_t key = s->first; key < s->first + s->length; key += kKeys)
      visit(Chunk{key, std::min(kKeys, s->first + s->length - key), s->end, s->position + key - s->first == 0});
}

// y[i][j] = x[j][i] for x [num_keys, size], by squares of 4 x 4 in registers of four; rows of y are kKeys apart.
template <class T>
void transpose_keys(int64_t num_keys, int64_t size, const T* HWY_RESTRICT x, int64_t x_stride, T* HWY_RESTRICT y) {
  int64_t whole_keys = 0, whole_size = 0;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (sizeof(T) == 4) {
    const hn::FixedTag<T, 4> d;
    whole_keys = num_keys / 4 * 4, whole_size = size / 4 * 4;
    for (int64_t j = 0; j < whole_keys; j += 4)
      for (int64_t i = 0; i < whole_size; i += 4) {
        const T* from = x + j * x_stride + i;
        const auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + x_stride);
        const auto r2 = hn::LoadU(d, from + 2 * x_stride), r3 = hn::LoadU(d, from + 3 * x_stride);
        const auto even = hn::InterleaveLower(d, r0, r2), odd = hn::InterleaveLower(d, r1, r3);
        const auto even_high = hn::InterleaveUpper(d, r0, r2), odd_high = hn::InterleaveUpper(d, r1, r3);
        T* to = y + i * kKeys + j;
        hn::StoreU(hn::InterleaveLower(d, even, odd), d, to);
        hn::StoreU(hn::InterleaveUpper(d, even, odd), d, to + kKeys);
        hn::StoreU(hn::InterleaveLower(d, even_high, odd_high), d, to + 2 * kKeys);
        hn::StoreU(hn::InterleaveUpper(d, even_high, odd_high), d, to + 3 * kKeys);
      }
  }
#endif
  for (int64_t j = 0; j < num_keys; ++j)
    for (int64_t i = j < whole_keys ? whole_size : 0; i < size; ++i) y[i * kKeys + j] = x[j * x_stride + i];
}

// Rows row..row+rows-1 of one head against a chunk; keys that no row of the tile sees are left out.
struct Tile {
  int64_t row, rows, num_keys;
  int64_t visible(const Chunk& c, int64_t r) const { return std::min(num_keys, row + r - c.key + 1); }
};
template <class Visit>
void for_each_tile(const Chunk& c, const Visit& visit) {
  for (int64_t row = c.key; row < c.end; row += kRows) {
    const int64_t rows = std::min(kRows, c.end - row);
    visit(Tile{row, rows, std::min(c.num_keys, row + rows - c.key)});
  }
}

// A row's scores become weights exp(scale s - top), zero beyond `visible`; returns their sum.
template <class T>
HWY_INLINE T to_weights(T* HWY_RESTRICT s, int64_t visible, int64_t num_keys, T scale, T top) {
  const hn::ScalableTag<T> d;
  const int64_t n = hn::Lanes(d);
  const auto factor = hn::Set(d, scale), shift = hn::Set(d, top);
  auto total = hn::Zero(d);
  int64_t i = 0;
  for (; i + n <= visible; i += n) {
    const auto p = hn::Exp(d, hn::MulSub(hn::Load(d, s + i), factor, shift));
    hn::Store(p, d, s + i);
    total = hn::Add(total, p);
  }
  if (i < visible) {
    const auto p = hn::IfThenElseZero(hn::FirstN(d, visible - i), hn::Exp(d, hn::MulSub(hn::Load(d, s + i), factor, shift)));
    hn::Store(p, d, s + i);
    total = hn::Add(total, p);
    i += n;
  }
  for (; i < num_keys; i += n) hn::Store(hn::Zero(d), d, s + i);
  return hn::GetLane(hn::SumOfLanes(d, total));
}

template <class T>
HWY_INLINE T largest(const T* s, int64_t visible) {
  const hn::ScalableTag<T> d;
  const int64_t n = hn::Lanes(d);
  auto top = hn::Set(d, -std::numeric_limits<T>::infinity());
  int64_t i = 0;
  for (; i + n <= visible; i += n) top = hn::Max(top, hn::Load(d, s + i));
  if (i < visible) top = hn::Max(top, hn::IfThenElse(hn::FirstN(d, visible - i), hn::Load(d, s + i), top));
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

template <class T>
HWY_INLINE void scale_row(T* x, int64_t size, T by) {
  const hn::ScalableTag<T> d;
  const auto factor = hn::Set(d, by);
  for_vectors(d, size, [&](int64_t i) { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), factor), d, x + i); },
              [&](int64_t i, int64_t n) { store_lanes(hn::Mul(load_lanes(d, x + i, n), factor), d, x + i, n); });
}

template <class T>
HWY_INLINE T dot(const T* x, const T* y, int64_t size) {
  const hn::ScalableTag<T> d;
  auto total = hn::Zero(d);
  for_vectors(d, size, [&](int64_t i) { total = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), total); },
              [&](int64_t i, int64_t n) { total = hn::MulAdd(load_lanes(d, x + i, n), load_lanes(d, y + i, n), total); });
  return hn::GetLane(hn::SumOfLanes(d, total));
}

// Scores become weights under each row's running maximum; what the row holds already is scaled to it.
template <class T>
void softmax_tile(const TrieAttentionForward<T>& a, const Chunk& c, const Tile& t, int64_t head, T* scores) {
  for (int64_t r = 0; r < t.rows; ++r) {
    T* s = scores + r * kKeys;
    T& top = a.lse.data[(t.row + r) * a.lse.row_stride + head * a.lse.head_stride];
    T& sum = a.sum.data[(t.row + r) * a.sum.row_stride + head * a.sum.head_stride];
    const int64_t visible = t.visible(c, r);
    const T seen = largest(s, visible) * static_cast<T>(a.scale), next = c.first ? seen : std::max(top, seen);
    const T added = to_weights(s, visible, t.num_keys, static_cast<T>(a.scale), next);
    if (c.first) {
      sum = added;
    } else {
      const T keep = std::exp(top - next);
      if (keep != 1) scale_row(a.out.data + (t.row + r) * a.out.row_stride + head * a.out.head_stride, a.head_size, keep);
      sum = sum * keep + added;
    }
    top = next;
  }
}

// Rows of the chunk itself have now seen all their keys.
template <class T>
void finish_rows(const TrieAttentionForward<T>& a, const Chunk& c, const Tile& t, int64_t head) {
  for (int64_t row = t.row; row < std::min(t.row + t.rows, c.key + c.num_keys); ++row) {
    const T sum = a.sum.data[row * a.sum.row_stride + head * a.sum.head_stride];
    scale_row(a.out.data + row * a.out.row_stride + head * a.out.head_stride, a.head_size, 1 / sum);
    a.lse.data[row * a.lse.row_stride + head * a.lse.head_stride] += std::log(sum);
  }
}

template <class T>
void forward(const TrieAttentionForward<T>& a) {
  const auto scratch = hwy::AllocateAligned<T>((kRows + a.head_size) * kKeys);
  T *scores = scratch.get(), *keys = scores + kRows * kKeys;
  for_each_chunk(a.segments, a.num_segments, [&](const Chunk& c) {
    transpose_keys(c.num_keys, a.head_size, a.k + c.key * a.k_stride, a.k_stride, keys);
    for (int64_t head = 0; head < a.num_heads; ++head)
      for_each_tile(c, [&](const Tile& t) {
        small_product<T>({t.rows, a.head_size, t.num_keys, a.q.data + t.row * a.q.row_stride + head * a.q.head_stride, a.q.row_stride, 1, keys,
                          kKeys, scores, kKeys, false});
        softmax_tile(a, c, t, head, scores);
        small_product<T>({t.rows, t.num_keys, a.head_size, scores, kKeys, 1, a.v + c.key * a.v_stride, a.v_stride,
                          a.out.data + t.row * a.out.row_stride + head * a.out.head_stride, a.out.row_stride, !c.first});
        finish_rows(a, c, t, head);
      });
  });
}

template <class T>
void output_times_gradient(const TrieAttentionBackward<T>& a) {
  for (const AttentionSegment* s = a.segments; s < a.segments + a.num_segments; ++s)
    for (int64_t row = s->first; row < s->first + s->length; ++row)
      for (int64_t head = 0; head < a.num_heads; ++head)
        a.delta.data[row * a.delta.row_stride + head * a.delta.head_stride] =
            dot(a.out.data + row * a.out.row_stride + head * a.out.head_stride,
                a.d_out.data + row * a.d_out.row_stride + head * a.d_out.head_stride, a.head_size);
}

// weights: scores -> p; gradients: d_out v -> ds.
template <class T>
void gradient_tile(const TrieAttentionBackward<T>& a, const Chunk& c, const Tile& t, int64_t head, T* weights, T* gradients) {
  const hn::ScalableTag<T> d;
  const int64_t n = hn::Lanes(d);
  const auto scale = hn::Set(d, static_cast<T>(a.scale));
  for (int64_t r = 0; r < t.rows; ++r) {
    T *p = weights + r * kKeys, *g = gradients + r * kKeys;
    const T lse = a.lse.data[(t.row + r) * a.lse.row_stride + head * a.lse.head_stride];
    to_weights(p, t.visible(c, r), t.num_keys, static_cast<T>(a.scale), lse);
    const auto delta = hn::Set(d, a.delta.data[(t.row + r) * a.delta.row_stride + head * a.delta.head_stride]);
    for (int64_t i = 0; i < t.num_keys; i += n)
      hn::Store(hn::Mul(hn::Mul(hn::Load(d, p + i), scale), hn::Sub(hn::Load(d, g + i), delta)), d, g + i);
  }
}

template <class T>
struct BackwardScratch {
  explicit BackwardScratch(int64_t head_size)
      : memory(hwy::AllocateAligned<T>((2 * kRows + 4 * head_size) * kKeys)), weights(memory.get()), gradients(weights + kRows * kKeys),
        keys(gradients + kRows * kKeys), values(keys + head_size * kKeys), d_k(values + head_size * kKeys), d_v(d_k + head_size * kKeys) {}
  hwy::AlignedFreeUniquePtr<T[]> memory;
  T *weights, *gradients;   // [kRows, kKeys]
  T *keys, *values;         // [head_size, kKeys]
  T *d_k, *d_v;             // [kKeys, head_size]
};

template <class T>
void backward_tile(const TrieAttentionBackward<T>& a, const Chunk& c, const Tile& t, int64_t head, bool adds, const BackwardScratch<T>& s) {
  const T* q = a.q.data + t.row * a.q.row_stride + head * a.q.head_stride;
  const T* d_out = a.d_out.data + t.row * a.d_out.row_stride + head * a.d_out.head_stride;
  const int64_t size = a.head_size;
  small_product<T>({t.rows, size, t.num_keys, q, a.q.row_stride, 1, s.keys, kKeys, s.weights, kKeys, false});
  small_product<T>({t.rows, size, t.num_keys, d_out, a.d_out.row_stride, 1, s.values, kKeys, s.gradients, kKeys, false});
  gradient_tile(a, c, t, head, s.weights, s.gradients);
  // Keys that this tile does not see keep what they have, or get their first zeros.
  if (!adds) std::fill(s.d_k + t.num_keys * size, s.d_k + c.num_keys * size, T{0}), std::fill(s.d_v + t.num_keys * size, s.d_v + c.num_keys * size, T{0});
  small_product<T>({t.num_keys, t.rows, size, s.weights, 1, kKeys, d_out, a.d_out.row_stride, s.d_v, size, adds});
  small_product<T>({t.num_keys, t.rows, size, s.gradients, 1, kKeys, q, a.q.row_stride, s.d_k, size, adds});
  small_product<T>({t.rows, t.num_keys, size, s.gradients, kKeys, 1, a.k + c.key * a.k_stride, a.k_stride,
                    a.d_q.data + t.row * a.d_q.row_stride + head * a.d_q.head_stride, a.d_q.row_stride, !c.first});
}

template <class T>
void backward(const TrieAttentionBackward<T>& a) {
  const BackwardScratch<T> s(a.head_size);
  output_times_gradient(a);
  for_each_chunk(a.segments, a.num_segments, [&](const Chunk& c) {
    transpose_keys(c.num_keys, a.head_size, a.k + c.key * a.k_stride, a.k_stride, s.keys);
    transpose_keys(c.num_keys, a.head_size, a.v + c.key * a.v_stride, a.v_stride, s.values);
    bool adds = false;
    for (int64_t head = 0; head < a.num_heads; ++head)
      for_each_tile(c, [&](const Tile& t) { backward_tile(a, c, t, head, adds, s), adds = true; });
    for (int64_t j = 0; j < c.num_keys; ++j) {
      std::copy_n(s.d_k + j * a.head_size, a.head_size, a.d_k + (c.key + j) * a.d_k_stride);
      std::copy_n(s.d_v + j * a.head_size, a.head_size, a.d_v + (c.key + j) * a.d_v_stride);
    }
  });
}

void forward_f32(const TrieAttentionForward<float>& a) { forward(a); }
void forward_f64(const TrieAttentionForward<double>& a) { forward(a); }
void backward_f32(const TrieAttentionBackward<float>& a) { backward(a); }
void backward_f64(const TrieAttentionBackward<double>& a) { backward(a); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(forward_f32);
HWY_EXPORT(forward_f64);
HWY_EXPORT(backward_f32);
HWY_EXPORT(backward_f64);

template <class Arguments>
void check(const Arguments& a) {
  TT_CHECK(a.head_size >= 1 && a.num_heads >= 1, "{} heads of {}", a.num_heads, a.head_size);
  TT_CHECK(a.num_segments == 0 || (a.segments && a.q.data && a.k && a.v && a.out.data && a.lse.data), "an array is missing");
  TT_CHECK(a.k_stride >= a.head_size && a.v_stride >= a.head_size && a.q.row_stride >= a.head_size, "rows of {} overlap", a.head_size);
}

}  // namespace

void trie_attention_forward(const TrieAttentionForward<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(forward_f32)(a); }
void trie_attention_forward(const TrieAttentionForward<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(forward_f64)(a); }
void trie_attention_backward(const TrieAttentionBackward<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(backward_f32)(a); }
void trie_attention_backward(const TrieAttentionBackward<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(backward_f64)(a); }

}  // namespace trimtab
#endif  // HWY_ONCE
