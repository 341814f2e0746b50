// The operation of trie_attention.h on a CUDA device, in 16-bit floats with sums in f32. One call does all heads and all roots, since a
// grid wants the work at once; and the trie is one number per row: in depth-first order row j is seen by the rows [j, end[j]) and by no
// others, where end[j] is one behind the last row of the last descendant of j's segment.
//
// Pointers are in device memory, rows behind one another at their strides and heads within a row, elements are contiguous. head_size and
// all strides are multiples of 8 and addresses of 16 bytes; head_size is at most 128; heads is a multiple of kv_heads. Anything else is
// cudaErrorInvalidValue. Work is queued on `stream` and nothing waits. Sums have an order of their own and no atomics: results repeat.
#pragma once

#include "kernels/cuda_device/cuda_types.h"

namespace trimtab {

template <class T>
struct TrieAttentionCuda {
  int64_t rows = 0;
  const int32_t* end = nullptr;   // [rows]
  int64_t heads = 1, kv_heads = 1, head_size = 0;
  float scale = 1;
  const T *q = nullptr, *k = nullptr, *v = nullptr;            // [rows, heads or kv_heads, head_size]
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  T* out = nullptr;                                            // [rows, heads, head_size]
  int64_t out_stride = 0;
  float* lse = nullptr;                                        // [rows, heads]
};

template <class T>
struct TrieAttentionGradientCuda {
  TrieAttentionCuda<T> forward;                                // as it was called; out and lse are its results
  const T* d_out = nullptr;                                    // [rows, heads, head_size]
  int64_t d_out_stride = 0;
  float* delta = nullptr;                                      // [rows, heads], scratch
  T *d_q = nullptr, *d_k = nullptr, *d_v = nullptr;            // overwritten
  int64_t d_q_stride = 0, d_k_stride = 0, d_v_stride = 0;
};

cudaError_t trie_attention_forward_cuda(const TrieAttentionCuda<Float16>& a, cudaStream_t stream);
cudaError_t trie_attention_forward_cuda(const TrieAttentionCuda<Bfloat16>& a, cudaStream_t stream);
cudaError_t trie_attention_backward_cuda(const TrieAttentionGradientCuda<Float16>& a, cudaStream_t stream);
cudaError_t trie_attention_backward_cuda(const TrieAttentionGradientCuda<Bfloat16>& a, cudaStream_t stream);

}  // namespace trimtab
