// The dense kernels of dense.h on a CUDA device: same arguments, all pointers in device memory, work queued
// on `stream`. The result is the launch's error; nothing waits. Sums are f32 with fused multiply-add in an
// order fixed by the extents.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/dense/dense.h"

namespace trimtab {

cudaError_t dense_forward_cuda(const DenseForward& layer, cudaStream_t stream);
cudaError_t dense_input_gradient_cuda(const DenseInputGradient& layer, cudaStream_t stream);
cudaError_t dense_weight_gradient_cuda(const DenseWeightGradient& layer, cudaStream_t stream);
cudaError_t dense_column_sums_cuda(int64_t rows, int64_t columns, const float* x, int64_t x_stride,
                                   float* sum, cudaStream_t stream);
cudaError_t dense_transpose_cuda(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                                 int64_t y_stride, cudaStream_t stream);

}  // namespace trimtab
