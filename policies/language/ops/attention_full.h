// Attention without the causal mask: every row attends to all rows of its segment, as in masked diffusion (LLaDA, arXiv 2502.09992).
// Segments are roots, so nothing is shared between sequences; what shares a prefix is causal (attention_trie.h).
#pragma once

#include <ATen/ATen.h>

#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/trie.h"

namespace trimtab {

// As rotary_attention_trie: qkv [T, (heads + 2 kv_heads) D] = [q | k | v], cosine and sine [T, D / 2] -> [T, heads D]. Plain ATen,
// segment by segment with the scores of one in memory: [heads, length, length], kept for the backward. qkv is left as it is.
at::Tensor rotary_attention_full(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie,
                                 const RotaryAttention& options);

}  // namespace trimtab
