// speculative_verify.h on a CUDA device: all pointers in device memory, one block per sequence, work queued on `stream` and nothing waits.
// Faults are in the verdicts; a wrong shape is cudaErrorInvalidValue.
//
// A chain accepts what the CPU's does, to the bit. Sums are f32 within a thread and double across, in an order fixed by vocab, so a draw
// (and, behind a rejected sibling, a decision) may differ from the CPU's where u lies within rounding of a border.
#pragma once

#include "kernels/cuda_device/cuda_types.h"
#include "kernels/speculative_verify/speculative_verify.h"

namespace trimtab {

cudaError_t speculative_verify_cuda(const SpeculativeChains& chains, cudaStream_t stream);
cudaError_t speculative_verify_cuda(const SpeculativeTrees& trees, cudaStream_t stream);

}  // namespace trimtab
