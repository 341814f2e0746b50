// Attention over a trie of segments: every row attends to the rows before it in its own segment and to all rows of the
// segment's ancestors. Exact, forward and backward; keys and values are stored once. The rows that see a segment are one
// contiguous slice, so tiles of the kernel (kernels/trie_attention) run over its own rows (causal) and its descendants' (full)
// and merge by log-sum-exp. In the backward each tile is given the merged output and the merged log-sum-exp; then
// P = exp(S - lse) and delta = sum(dO * O) are right in every tile, and the gradients of a prefix's keys and values add up.
// After Prefix Grouper (arXiv 2506.05433), which repeats the prefix's keys and has one level; FlashAttention (2205.14135).
// Threads share out subtrees and key heads, so results do not depend on their number.
#pragma once

#include <ATen/core/Tensor.h>

#include "policies/language/ops/trie.h"

namespace trimtab {

// q [T, H, D], k and v [T, K, D], f32 or f64 on the CPU, 16 bits there too (by way of f32) and on CUDA; H a multiple of K (grouped queries: head h reads key head h / (H / K)).
// Returns [T, H, D]. scale: of the scores, 1 / sqrt(D) unless given. Differentiable in q, k and v (once).
at::Tensor attention_trie(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale = 0);

// What a layer needs at once: qkv [T, (heads + 2 kv_heads) D] = [q | k | v], q and k turned by the row's angles (cosine and sine
// [T, D / 2], kernels/rotary), then attention; returns [T, heads D]. qkv is used up: turned in place (f32 and f64) and kept for the backward.
struct RotaryAttention {
  int64_t heads = 1, kv_heads = 1;
  double scale = 0;   // as above
};
at::Tensor rotary_attention_trie(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie,
                                 const RotaryAttention& options);

// The same by its definition, masked scores in one matrix: O(T^2) memory; what attention_trie is tested against.
at::Tensor attention_trie_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale = 0);

}  // namespace trimtab
