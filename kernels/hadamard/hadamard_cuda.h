// Orthonormal Walsh-Hadamard transform of rows on a CUDA device, in place: x <- x H / sqrt(n), H[i][j] = (-1)^(bits that i and j share).
// It is its own inverse.
//
// Rows of head_dim numbers, `stride` apart, in device memory; head_dim is a power of two from 2 to 512, else cudaErrorInvalidValue. Sums
// are f32 and rounded to T at the end. Work is queued on `stream` and nothing waits.
#pragma once

#include "kernels/cuda_device/cuda_types.h"

namespace trimtab {

cudaError_t hadamard_cuda(float* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream);
cudaError_t hadamard_cuda(Float16* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream);
cudaError_t hadamard_cuda(Bfloat16* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream);

}  // namespace trimtab
