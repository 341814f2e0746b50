// Adam on CUDA: one thread per element. The norm is one block whose threads stride over the buffer and add up
// in a tree, so that it repeats to the bit; controllers have some ten thousand parameters.
#include "kernels/adam/adam_cuda.h"

#include <cmath>

namespace trimtab {
namespace {

constexpr int kThreads = 256, kNormThreads = 1024;

struct Scalars {
  float scale, beta1, one_beta1, beta2, one_beta2, keep, lr_hat, eps_hat;
};

__global__ void adam_kernel(const AdamStep a, const Scalars s) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.size) return;
  const float g = a.gradient[i] * s.scale;
  const float m = fmaf(s.beta1, a.m[i], s.one_beta1 * g), v = fmaf(s.beta2, a.v[i], s.one_beta2 * (g * g));
  a.m[i] = m;
  a.v[i] = v;
  a.parameters[i] = a.parameters[i] * s.keep - s.lr_hat * m / (sqrtf(v) + s.eps_hat);
}

__global__ void norm_kernel(const float* x, int64_t size, double* result) {
  __shared__ double part[kNormThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < size; i += kNormThreads) sum += static_cast<double>(x[i]) * x[i];
  part[threadIdx.x] = sum;
  for (int half = kNormThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *result = part[0];
}

}  // namespace

cudaError_t adam_step_cuda(const AdamStep& a, cudaStream_t stream) {
  if (a.size == 0) return cudaSuccess;
  const double c1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double root_c2 = std::sqrt(1 - std::pow(a.beta2, static_cast<double>(a.step)));
  const auto f = [](double x) { return static_cast<float>(x); };
  const Scalars s = {f(a.gradient_scale),    f(a.beta1),
                     f(1 - a.beta1),         f(a.beta2),
                     f(1 - a.beta2),         f(1 - a.lr * a.weight_decay),
                     f(a.lr * root_c2 / c1), f(a.eps * root_c2)};
  adam_kernel<<<static_cast<unsigned>((a.size + kThreads - 1) / kThreads), kThreads, 0, stream>>>(a, s);
  return cudaGetLastError();
}

cudaError_t squared_norm_cuda(const float* x, int64_t size, double* result, cudaStream_t stream) {
  norm_kernel<<<1, kNormThreads, 0, stream>>>(x, size, result);
  return cudaGetLastError();
}

}  // namespace trimtab
