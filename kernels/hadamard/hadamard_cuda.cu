// The fast transform, one warp per row: number i lies with lane i % 32, so that butterflies up to 16 apart are exchanges between lanes and
// wider ones stay within a lane.
#include "kernels/hadamard/hadamard_cuda.h"

#include "kernels/cuda_device/cuda_device.cuh"

namespace trimtab {
namespace {

constexpr int kWarps = 4;

// kPer numbers of each lane; rows of fewer than 32 fill the first lanes, and the others' zeros stay among themselves.
template <class T, int kPer>
__global__ void __launch_bounds__(kWarps* kWarp) hadamard_kernel(T* data, int64_t rows, int64_t stride, int head_dim) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;   // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  T* from = data + row * stride;
  float x[kPer];
  for (int i = 0; i < kPer; ++i) x[i] = lane + i * kWarp < head_dim ? to_float(from[lane + i * kWarp]) : 0;
  for (int apart = 1; apart < kWarp && apart < head_dim; apart *= 2) {
    for (int i = 0; i < kPer; ++i) {
      const float other = __shfl_xor_sync(kAllLanes, x[i], apart);
      x[i] = (lane & apart) != 0 ? other - x[i] : x[i] + other;
    }
  }
  TRIMTAB_UNROLL
  for (int apart = 1; apart < kPer; apart *= 2)
    for (int i = 0; i < kPer; ++i)
      if ((i & apart) == 0) {
        const float upper = x[i + apart];
        x[i + apart] = x[i] - upper, x[i] += upper;
      }
  const float factor = 1 / sqrtf(static_cast<float>(head_dim));
  for (int i = 0; i < kPer; ++i)
    if (lane + i * kWarp < head_dim) from_float(x[i] * factor, from[lane + i * kWarp]);
}

template <class T>
cudaError_t hadamard(T* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream) {
  if (head_dim < 2 || head_dim > 512 || (head_dim & (head_dim - 1)) != 0 || rows < 0 || (rows > 1 && stride < head_dim)) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const dim3 blocks(static_cast<unsigned>((rows + kWarps - 1) / kWarps)), threads(kWarps * kWarp);
  const int d = static_cast<int>(head_dim);
  switch (d) {
    case 64: return launch(hadamard_kernel<T, 2>, blocks, threads, stream, x, rows, stride, d);
    case 128: return launch(hadamard_kernel<T, 4>, blocks, threads, stream, x, rows, stride, d);
    case 256: return launch(hadamard_kernel<T, 8>, blocks, threads, stream, x, rows, stride, d);
    case 512: return launch(hadamard_kernel<T, 16>, blocks, threads, stream, x, rows, stride, d);
    default: return launch(hadamard_kernel<T, 1>, blocks, threads, stream, x, rows, stride, d);
  }
}

}  // namespace

cudaError_t hadamard_cuda(float* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream) { return hadamard(x, rows, stride, head_dim, stream); }
cudaError_t hadamard_cuda(Float16* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream) { return hadamard(x, rows, stride, head_dim, stream); }
cudaError_t hadamard_cuda(Bfloat16* x, int64_t rows, int64_t stride, int64_t head_dim, cudaStream_t stream) { return hadamard(x, rows, stride, head_dim, stream); }

}  // namespace trimtab
