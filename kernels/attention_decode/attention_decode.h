// Attention of a few queries on a KV cache straight from its packed pages (kernels/kv_pack), widths mixed page by page.
//
//   out = sum_j softmax(q . k_j) v_j
//
// Queries of one KV head (the heads of a group, or several rows) go through a page together, so its codes are read once. A page has
// one width, so there is no branch per key; pages go through in the order given (attention after rotary embedding does not depend on
// it), and the running maximum and sum merge them. A split over keys is several calls, each with states of its own, and
// merge_attention at the end.
//
// Packed keys: the query, times the channel's scale, becomes an integer of 13 bits in two pieces of 7, each of which meets the codes
// in 4 x 8 bit dot products (VNNI where the processor has it). Packed values: the same with the softmax weights, 12 bits of the
// page's largest. So what is computed is attention over the dequantised cache to about 2e-4 of the values' size; 16-bit pages are f32
// arithmetic. Integer sums are the same on every instruction set. Thread-safe; no allocation. Wrong arguments are TT_CHECKs; NaN in a
// query stays NaN in its result.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kv_pack/kv_format.h"

namespace trimtab {

struct KvPage {
  const uint8_t* data = nullptr;
  KvBits bits;
  int32_t tokens = 0;          // filled: 1 .. shape.tokens, packed pages whole
  float value_error = 0;       // what packing lost (KvPackResult); for the statistics
};

// What one query has seen so far; begin_attention() before the first page.
struct AttentionState {
  float max = 0, sum = 0;
  float* out = nullptr;        // [head_dim], times `sum` until finish_attention
};

// On request, at no second pass over the cache; per query.
struct AttentionStatistics {
  float* mass = nullptr;       // [keys in the order of the pages]: sum over queries of softmax weights, added to
  float* page_mass = nullptr;  // [pages]: the same by page
  float* page_error = nullptr; // [pages]: sum over queries of mass times the page's value_error: what the output may have lost there
  float* squares = nullptr;    // [queries]: sum of squared weights, added to: their variance over n keys is squares / n - 1 / n^2
};

struct AttentionDecode {
  KvShape shape;
  KvQuantiser quantiser;
  std::span<const KvPage> pages;
  std::span<const float* const> queries;      // each [head_dim], scaled by 1 / sqrt(head_dim), rotated as the keys were
  std::span<AttentionState> states;           // of each query
  float* weights = nullptr;                   // null, or scratch [queries, weight_stride] that keeps exp(score - page's maximum):
  int64_t weight_stride = 0;                  // needed for statistics; >= attention_weights(pages, shape)
};
inline int64_t weights_per_page(const KvShape& shape) { return shape.tokens + 16; }   // and the maximum they are relative to
inline int64_t attention_weights(int64_t pages, const KvShape& shape) { return pages * weights_per_page(shape); }

void begin_attention(std::span<AttentionState> states, int64_t head_dim);
void attention_decode(const AttentionDecode& a);
// Adds `from`'s keys to `into`. Both unfinished; `from` may be empty.
void merge_attention(const AttentionState& from, int64_t head_dim, AttentionState& into);
// Divides by the sum. A query that saw no key becomes zeros.
void finish_attention(std::span<AttentionState> states, int64_t head_dim);
// After the last page of all calls; `a` and its weights as in one of them, its states those that have seen everything.
void attention_statistics(const AttentionDecode& a, const AttentionStatistics& out);

}  // namespace trimtab
