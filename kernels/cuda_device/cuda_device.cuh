// What CUDA kernels here are made of: 16-bit numbers to float and back, warp and block reductions, the tensor core's 16 x 8 products,
// copies that do not wait, and a launch. Under nvcc these are the device's; with TRIMTAB_HOST_GRID the same kernel source is C++ that runs block by block on the
// host (host_grid.h), which is how its arithmetic, its masks and its barriers are tested where there is no GPU.
#pragma once

#include "kernels/cuda_device/cuda_types.h"

#ifdef TRIMTAB_HOST_GRID
#include "kernels/cuda_device/host_grid.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define TRIMTAB_UNROLL _Pragma("unroll")   // before a loop over registers
#endif

namespace trimtab {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#ifndef TRIMTAB_HOST_GRID

// Four and sixteen bytes at once, of memory that holds something else.
using Word = uint32_t;
using Chunk = uint4;

__device__ inline float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ inline uint32_t float_to_bits(float x) { return __float_as_uint(x); }
__device__ inline float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline void from_float(float x, Float16& to) { to.bits = __half_as_ushort(__float2half_rn(x)); }

// d [16, 8] += a [16, 16] b [16, 8] by one warp. With g = lane / 4 and t = lane % 4 (PTX ISA, mma.m16n8k16): a holds the pairs of columns
// (2t, 2t + 1) of rows g and g + 8, then the same 8 columns on; b the pairs of rows (2t, 2t + 1) of column g, then 8 rows on; d the pairs of
// columns (2t, 2t + 1) of row g, then of row g + 8. The lower half of a register is the first of its pair.
__device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Float16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Bfloat16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of bytes, d [16, 8] += a [16, 32] b [32, 8], a signed and b unsigned: a register holds four numbers in place of two, so a holds
// the columns 4t .. 4t + 3 of rows g and g + 8, then the same 16 columns on; b the rows 4t .. 4t + 3 of column g, then 16 rows on.
__device__ inline void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Sixteen bytes from global to shared memory, or zeros where not `inside` (`from` must be an address even so). A thread's copies since its
// last commit are a group; wait_for_copies leaves at most the kPending newest groups of this thread unfinished.
__device__ inline void copy_async(Chunk* to, const Chunk* from, bool inside) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Queues kernel(arguments...) on the stream; the result is the launch's error.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, cudaStream_t stream, const Arguments&... arguments) {
  kernel<<<blocks, threads, 0, stream>>>(arguments...);
  return cudaGetLastError();
}

#endif

__device__ inline float to_float(float x) { return x; }
__device__ inline void from_float(float x, float& to) { to = x; }
__device__ inline float to_float(Bfloat16 x) { return bits_to_float(uint32_t{x.bits} << 16); }
__device__ inline void from_float(float x, Bfloat16& to) {   // to nearest, ties to even; NaN stays NaN
  const uint32_t bits = float_to_bits(x);
  to.bits = static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
template <class T>
__device__ T rounded(float x) {
  T out;
  from_float(x, out);
  return out;
}

// Two numbers in one register, the first in the lower half.
template <class T>
__device__ uint32_t packed(T first, T second) {
  return uint32_t{first.bits} | uint32_t{second.bits} << 16;
}
template <class T>
__device__ uint32_t packed(float first, float second) {
  return packed(rounded<T>(first), rounded<T>(second));
}

__device__ inline float warp_sum(float x) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// Sum over a block of whole warps, told to every thread; `scratch` is shared memory for one float per warp, free again after the call.
__device__ inline float block_sum(float x, float* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}
__device__ inline float block_max(float x, float* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  float max = scratch[0];
  for (int w = 1; w < warps; ++w) max = fmaxf(max, scratch[w]);
  __syncthreads();
  return max;
}

}  // namespace trimtab
