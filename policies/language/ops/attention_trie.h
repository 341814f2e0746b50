// Attention over a trie of segments: every row attends to the rows before it in its own segment and to all rows of the
// segment's ancestors. Exact, forward and backward, and nothing is copied: per segment two calls of ATen's flash attention,
// its own queries on its own keys (causal) and its descendants' queries, one contiguous slice, on its keys (full), merged by
// log-sum-exp. In the backward each piece is given the merged output and the merged log-sum-exp; then P = exp(S - lse) and
// delta = sum(dO * O) are right in every piece, and the gradients of a prefix's keys and values add up.
// After Prefix Grouper (arXiv 2506.05433), which repeats the prefix's keys and has one level; FlashAttention (2205.14135).
#pragma once

#include <ATen/ATen.h>

#include "policies/language/ops/trie.h"

namespace trimtab {

// q [T, H, D], k and v [T, K, D], f32 or f64 on the CPU; H a multiple of K (grouped queries: head h reads key head h / (H / K)).
// Returns [T, H, D]. scale: of the scores, 1 / sqrt(D) unless given. Differentiable in q, k and v (once).
at::Tensor attention_trie(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale = 0);

// The same by its definition, masked scores in one matrix: O(T^2) memory; what attention_trie is tested against.
at::Tensor attention_trie_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale = 0);

}  // namespace trimtab
