// Adam and the gradient norm of adam.h on a CUDA device: all pointers in device memory, work queued on
// `stream`.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/adam/adam.h"

namespace trimtab {

cudaError_t adam_step_cuda(const AdamStep& adam, cudaStream_t stream);
// *result (device memory) = sum of squares, in a fixed order.
cudaError_t squared_norm_cuda(const float* x, int64_t size, double* result, cudaStream_t stream);

}  // namespace trimtab
