// lora.h on a CUDA device: the same arguments, all pointers in device memory (also those inside adapters, caches and queries; the structs
// that take them are in host memory), work queued on `stream`, nothing waits. What lies in device memory is not checked; else wrong
// arguments are cudaErrorInvalidValue.
//
// Sums have an order of their own, fixed by the extents of their product, and no atomics: results repeat, and a row's depends neither
// on the rows beside it nor on how the rows or panels were shared out.
#pragma once

#include "kernels/cuda_device/cuda_types.h"
#include "kernels/lora/lora.h"

namespace trimtab {

cudaError_t lora_shrink_cuda(const LoraShrink& s, cudaStream_t stream);
cudaError_t lora_expand_cuda(const LoraExpand& e, cudaStream_t stream);
cudaError_t attention_lora_cuda(const AttentionLora& a, cudaStream_t stream);

}  // namespace trimtab
