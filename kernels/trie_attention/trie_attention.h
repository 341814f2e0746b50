// Exact attention over a trie of segments on plain arrays, forward and backward, f32 or f64. Rows lie in depth-first order, so
// the rows that see a segment are one contiguous slice: its own (causally) and all its descendants' right behind them.
//
//   forward   o_r = sum_j softmax_j(scale q_r k_j) v_j  over the rows j <= r on r's path,   lse_r = log sum_j exp(scale q_r k_j)
//   backward  p_rj = exp(scale q_r k_j - lse_r), ds_rj = scale p_rj (do_r v_j - do_r o_r);
//             dv_j = sum_r p_rj do_r, dk_j = sum_r ds_rj q_r, dq_r = sum_j ds_rj k_j
//
// Tiles of queries by keys with a running maximum and sum per row (FlashAttention, arXiv 2205.14135, 2307.08691); a tile may
// hold rows of many segments, so short responses cost no more than long ones. One call handles the subtrees of some roots
// and one key head with the query heads that read it: calls for other roots or heads touch other memory and may run beside it.
// The order of summation depends on the trie alone. Strides are in elements. Outputs must not overlap inputs. Allocates a
// scratch of some 200 kB. Wrong shapes are our own errors (TT_CHECK); NaN and infinity go through.
#pragma once

#include <cstdint>

namespace trimtab {

struct AttentionSegment {
  int64_t first = 0, length = 0;   // its rows
  int64_t end = 0;                 // one behind the last row of its last descendant
  int64_t position = 0;            // of its first row in the sequence: 0 for a root
};

// Rows of several heads: element (row, head, i) at data[row * row_stride + head * head_stride + i].
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t row_stride = 0, head_stride = 0;
};

template <class T>
struct TrieAttentionForward {
  const AttentionSegment* segments = nullptr;   // whole subtrees, depth first
  int64_t num_segments = 0;
  int64_t num_heads = 1, head_size = 0;         // query heads that share the key head
  double scale = 1;
  HeadRows<const T> q;                          // [rows, num_heads, head_size]
  const T* k = nullptr;                         // [rows, head_size]
  int64_t k_stride = 0;
  const T* v = nullptr;
  int64_t v_stride = 0;
  HeadRows<T> out;                              // [rows, num_heads, head_size], overwritten
  HeadRows<T> lse;                              // [rows, num_heads], overwritten
  HeadRows<T> sum;                              // [rows, num_heads], scratch
};

template <class T>
struct TrieAttentionBackward {
  const AttentionSegment* segments = nullptr;
  int64_t num_segments = 0;
  int64_t num_heads = 1, head_size = 0;
  double scale = 1;
  HeadRows<const T> q, out, lse, d_out;         // as in the forward; d_out like out
  const T* k = nullptr;
  int64_t k_stride = 0;
  const T* v = nullptr;
  int64_t v_stride = 0;
  HeadRows<T> delta;                            // [rows, num_heads], scratch
  HeadRows<T> d_q;                              // overwritten, as d_k and d_v
  T* d_k = nullptr;
  int64_t d_k_stride = 0;
  T* d_v = nullptr;
  int64_t d_v_stride = 0;
};

void trie_attention_forward(const TrieAttentionForward<float>& a);
void trie_attention_forward(const TrieAttentionForward<double>& a);
void trie_attention_backward(const TrieAttentionBackward<float>& a);
void trie_attention_backward(const TrieAttentionBackward<double>& a);

}  // namespace trimtab
