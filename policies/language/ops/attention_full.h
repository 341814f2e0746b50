// Attention without the causal mask: every row attends to all rows of its segment, and to all rows of the segments it continues. Roots
// alone are masked diffusion over whole sequences (LLaDA, arXiv 2502.09992). Below them a row sees its own block and everything before
// it, and a block's clean and noised versions are two children of one parent: block diffusion (BD3-LM, arXiv 2503.09573), exactly.
#pragma once

#include <ATen/core/Tensor.h>

#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/trie.h"

namespace trimtab {

// As rotary_attention_trie: qkv [T, (heads + 2 kv_heads) D] = [q | k | v], cosine and sine [T, D / 2] -> [T, heads D]. Plain ATen, on any
// device, root by root with the scores of one in memory: [heads, rows, rows], masked below a root with children, kept for the backward.
// Roots of one length without children go together. qkv is left as it is.
at::Tensor rotary_attention_full(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie,
                                 const RotaryAttention& options);

}  // namespace trimtab
