// The CUDA version for lora_cases.h.
#pragma once

#include "kernels/lora/lora_cases.h"
#include "kernels/lora/lora_cuda.h"

namespace trimtab {

struct CudaLora {
  bool shrink(const LoraShrink& s) const { return lora_shrink_cuda(s, nullptr) == cudaSuccess; }
  bool expand(const LoraExpand& e) const { return lora_expand_cuda(e, nullptr) == cudaSuccess; }
  bool attention(const AttentionLora& a) const { return attention_lora_cuda(a, nullptr) == cudaSuccess; }
};

}  // namespace trimtab
