// attention_trie on tensors of a CUDA device (kernels/trie_attention/trie_attention_cuda.h).
#pragma once

#include <ATen/core/Tensor.h>

#include "policies/language/ops/trie.h"

namespace trimtab {

// q [T, H, D], k and v [T, K, D], f16 or bf16, D a multiple of 8 up to 128 -> [T, H, D]; differentiable. ConfigError in a build without CUDA
// and for other formats and sizes.
at::Tensor attention_trie_cuda(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale);

}  // namespace trimtab
