// Dense layer on CUDA. As on the CPU the forward and input-gradient passes are one tiled product with
// different strides: a block of 256 threads makes a 64 x 64 tile, each thread 4 x 4 of it, from slices of 16
// inner indices in shared memory. The weight gradient sums over many rows into few outputs, so its tiles are
// 16 x 16 and four groups of threads share the rows, added up in a fixed order: no atomics, so results
// repeat.
#include "kernels/dense/dense_cuda.h"

namespace trimtab {
namespace {

enum class Finish { kNone, kTanh, kRelu, kTanhGradient, kReluGradient };

struct Product {
  int64_t rows, inner, columns;
  const float* x;  // [rows, inner]
  int64_t x_stride;
  const float* b;  // [inner, columns]
  int64_t b_stride;
  DenseBase base;
  Finish finish;
  const float* gate;  // [rows, columns]
  int64_t gate_stride;
  float* y;  // [rows, columns]
  int64_t y_stride;
};

constexpr int kTile = 64, kSlice = 16, kPerThread = 4, kThreads = 256;

__device__ float finished(float sum, Finish finish, const float* gate) {
  switch (finish) {
    case Finish::kNone:
      return sum;
    case Finish::kTanh:
      return tanhf(sum);
    case Finish::kRelu:
      return fmaxf(sum, 0.0f);
    case Finish::kTanhGradient:
      return sum * (1.0f - *gate * *gate);
    case Finish::kReluGradient:
      return *gate > 0.0f ? sum : 0.0f;
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) product_kernel(const Product p) {
  __shared__ float x_slice[kSlice][kTile + 1], b_slice[kSlice][kTile];
  const int64_t first_row = int64_t{blockIdx.x} * kTile, first_column = int64_t{blockIdx.y} * kTile;
  const int thread_row = threadIdx.x / (kTile / kPerThread),
            thread_column = threadIdx.x % (kTile / kPerThread);
  float sum[kPerThread][kPerThread] = {};
  for (int64_t k0 = 0; k0 < p.inner; k0 += kSlice) {
    for (int i = threadIdx.x; i < kTile * kSlice; i += kThreads) {
      const int64_t row = first_row + i / kSlice, k = k0 + i % kSlice;
      x_slice[i % kSlice][i / kSlice] = row < p.rows && k < p.inner ? p.x[row * p.x_stride + k] : 0.0f;
      const int64_t column = first_column + i % kTile, b_k = k0 + i / kTile;
      b_slice[i / kTile][i % kTile] =
          column < p.columns && b_k < p.inner ? p.b[b_k * p.b_stride + column] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSlice; ++k) {
      float x[kPerThread], b[kPerThread];
      for (int i = 0; i < kPerThread; ++i) x[i] = x_slice[k][thread_row * kPerThread + i];
      for (int j = 0; j < kPerThread; ++j) b[j] = b_slice[k][thread_column + j * (kTile / kPerThread)];
      for (int i = 0; i < kPerThread; ++i)
        for (int j = 0; j < kPerThread; ++j) sum[i][j] = fmaf(x[i], b[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t row = first_row + thread_row * kPerThread + i;
    if (row >= p.rows) continue;
    const float* base = p.base.data;
    if (base) base += (p.base.row ? p.base.row[row] : row) * p.base.stride;
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t column = first_column + thread_column + j * (kTile / kPerThread);
      if (column >= p.columns) continue;
      const float total = sum[i][j] + (base ? base[column] : 0.0f);
      p.y[row * p.y_stride + column] = finished(total, p.finish, p.gate + row * p.gate_stride + column);
    }
  }
}

cudaError_t launch_product(const Product& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return cudaSuccess;
  const dim3 blocks(static_cast<unsigned>((p.rows + kTile - 1) / kTile),
                    static_cast<unsigned>((p.columns + kTile - 1) / kTile));
  product_kernel<<<blocks, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

constexpr int kSmall = 16, kGroups = 4;  // 16 x 16 outputs, each by four threads

__global__ void __launch_bounds__(kSmall* kSmall* kGroups)
    weight_gradient_kernel(const DenseWeightGradient p) {
  __shared__ float x_slice[kGroups][kSmall][kSmall], dy_slice[kGroups][kSmall][kSmall];
  const int j = threadIdx.x, k = threadIdx.y, group = threadIdx.z;
  const int64_t row_x = int64_t{blockIdx.x} * kSmall + j, column = int64_t{blockIdx.y} * kSmall + j;
  float sum = 0;
  for (int64_t r0 = 0; r0 < p.rows; r0 += kSmall * kGroups) {
    const int64_t r = r0 + group * kSmall + k;
    x_slice[group][k][j] = r < p.rows && row_x < p.in ? p.x[r * p.x_stride + row_x] : 0.0f;
    dy_slice[group][k][j] = r < p.rows && column < p.out ? p.dy[r * p.dy_stride + column] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSmall; ++i) sum = fmaf(x_slice[group][i][k], dy_slice[group][i][j], sum);
    __syncthreads();
  }
  x_slice[group][k][j] = sum;
  __syncthreads();
  const int64_t row = int64_t{blockIdx.x} * kSmall + k;
  if (group == 0 && row < p.in && column < p.out) {
    for (int g = 1; g < kGroups; ++g) sum += x_slice[g][k][j];
    p.dw[row * p.dw_stride + column] += sum;
  }
}

constexpr int kWarp = 32, kRowThreads = 16;

__global__ void column_sums_kernel(int64_t rows, int64_t columns, const float* x, int64_t x_stride,
                                   float* sum) {
  __shared__ float part[kRowThreads][kWarp];
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  float total = 0;
  if (column < columns)
    for (int64_t r = threadIdx.y; r < rows; r += kRowThreads) total += x[r * x_stride + column];
  part[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (int i = 1; i < kRowThreads; ++i) total += part[i][threadIdx.x];
    sum[column] += total;
  }
}

__global__ void transpose_kernel(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                                 int64_t y_stride) {
  __shared__ float square[kWarp][kWarp + 1];
  const int64_t row = int64_t{blockIdx.x} * kWarp, column = int64_t{blockIdx.y} * kWarp;
  for (int i = threadIdx.y; i < kWarp; i += kRowThreads)
    if (row + i < rows && column + threadIdx.x < columns)
      square[i][threadIdx.x] = x[(row + i) * x_stride + column + threadIdx.x];
  __syncthreads();
  for (int i = threadIdx.y; i < kWarp; i += kRowThreads)
    if (column + i < columns && row + threadIdx.x < rows)
      y[(column + i) * y_stride + row + threadIdx.x] = square[threadIdx.x][i];
}

unsigned blocks_of(int64_t extent, int block) { return static_cast<unsigned>((extent + block - 1) / block); }

}  // namespace

cudaError_t dense_forward_cuda(const DenseForward& a, cudaStream_t stream) {
  const Finish finish = a.activation == Activation::kTanh   ? Finish::kTanh
                        : a.activation == Activation::kRelu ? Finish::kRelu
                                                            : Finish::kNone;
  return launch_product({a.rows, a.in, a.out, a.x, a.x_stride, a.weight, a.weight_stride, a.base, finish,
                         nullptr, 0, a.y, a.y_stride},
                        stream);
}

cudaError_t dense_input_gradient_cuda(const DenseInputGradient& a, cudaStream_t stream) {
  const Finish finish = a.activation == Activation::kTanh   ? Finish::kTanhGradient
                        : a.activation == Activation::kRelu ? Finish::kReluGradient
                                                            : Finish::kNone;
  return launch_product({a.rows, a.out, a.in, a.dy, a.dy_stride, a.weight_transposed, a.weight_stride, a.base,
                         finish, a.x, a.x_stride, a.dx, a.dx_stride},
                        stream);
}

cudaError_t dense_weight_gradient_cuda(const DenseWeightGradient& a, cudaStream_t stream) {
  if (a.rows == 0 || a.in == 0 || a.out == 0) return cudaSuccess;
  const dim3 blocks(blocks_of(a.in, kSmall), blocks_of(a.out, kSmall));
  weight_gradient_kernel<<<blocks, dim3(kSmall, kSmall, kGroups), 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t dense_column_sums_cuda(int64_t rows, int64_t columns, const float* x, int64_t x_stride,
                                   float* sum, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  column_sums_kernel<<<blocks_of(columns, kWarp), dim3(kWarp, kRowThreads), 0, stream>>>(rows, columns, x,
                                                                                         x_stride, sum);
  return cudaGetLastError();
}

cudaError_t dense_transpose_cuda(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                                 int64_t y_stride, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  transpose_kernel<<<dim3(blocks_of(rows, kWarp), blocks_of(columns, kWarp)), dim3(kWarp, kRowThreads), 0,
                     stream>>>(rows, columns, x, x_stride, y, y_stride);
  return cudaGetLastError();
}

}  // namespace trimtab
