// Checks of the CUDA transform against its definition in double, wherever it runs: Array<T> is device memory (tests/gpu/device.h) or the
// host's (kernels/cuda_device/host_grid.h).
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/hadamard/hadamard_cuda.h"

namespace trimtab {

inline int sign_of(int64_t i, int64_t j) {
  int odd = 0;
  for (int64_t both = i & j; both != 0; both &= both - 1) odd ^= 1;
  return odd ? -1 : 1;
}

// What differs from x H / sqrt(n) by more than `tolerance` of the row's norm, or nothing. What lies between the rows must stay.
template <class T, template <class> class Array>
std::string hadamard_cuda_mismatch(int64_t head_dim, int64_t rows, uint64_t seed, double tolerance, T (*of)(float), double (*value)(T)) {
  Draws draws(seed, Stream::kTest, static_cast<uint32_t>(head_dim), 100);
  const int64_t stride = head_dim + 3;
  const double root = std::sqrt(static_cast<double>(head_dim));
  std::vector<T> before(rows * stride);
  for (T& x : before) x = of(draws.normal() * (draws.below(16) == 0 ? 100.0f : 1.0f));
  Array<T> x(before);
  if (hadamard_cuda(x.data(), rows, stride, head_dim, nullptr) != cudaSuccess) return "the launch failed";
  const std::vector<T> after = x.host();
  for (int64_t r = 0; r < rows; ++r) {
    double norm = 0;
    for (int64_t i = 0; i < head_dim; ++i) norm += std::pow(value(before[r * stride + i]), 2);
    for (int64_t i = 0; i < stride; ++i) {
      double expected = 0;
      for (int64_t j = 0; j < head_dim && i < head_dim; ++j) expected += sign_of(i, j) * value(before[r * stride + j]) / root;
      if (i >= head_dim) expected = value(before[r * stride + i]);
      const double got = value(after[r * stride + i]), within = i < head_dim ? tolerance * std::sqrt(norm) : 0;
      if (!(std::abs(got - expected) <= within))
        return "heads of " + std::to_string(head_dim) + ", row " + std::to_string(r) + ", number " + std::to_string(i) + ": " + std::to_string(got) +
               " instead of " + std::to_string(expected);
    }
  }
  return "";
}

}  // namespace trimtab
