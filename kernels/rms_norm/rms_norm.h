// Root mean square norm of rows (Zhang and Sennrich, arXiv 1910.07467) on plain arrays, f32 or f64:
//
//   y = weight x r,  r = 1 / sqrt(mean(x^2) + epsilon)
//   dx = r (g - x r mean(g x r)) + base,  g = weight dy;   d_weight += dy x r
//
// Strides are distances between rows in elements. Outputs must not overlap inputs, but dx may be base. Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

template <class T>
struct RmsNorm {
  int64_t rows = 0, width = 0;
  const T* x = nullptr;        // [rows, width]
  int64_t x_stride = 0;
  const T* weight = nullptr;   // [width]
  double epsilon = 0;
  T* y = nullptr;              // [rows, width]
  int64_t y_stride = 0;
};

template <class T>
struct RmsNormGradient {
  int64_t rows = 0, width = 0;
  const T* x = nullptr;
  int64_t x_stride = 0;
  const T* weight = nullptr;
  double epsilon = 0;
  const T* dy = nullptr;       // [rows, width]
  int64_t dy_stride = 0;
  const T* base = nullptr;     // [rows, width]: gradient that reaches x by another way; null: none
  int64_t base_stride = 0;
  T* dx = nullptr;             // [rows, width]
  int64_t dx_stride = 0;
  T* d_weight = nullptr;       // [width], added to in the order of rows
};

void rms_norm(const RmsNorm<float>& a);
void rms_norm(const RmsNorm<double>& a);
void rms_norm_gradient(const RmsNormGradient<float>& a);
void rms_norm_gradient(const RmsNormGradient<double>& a);

}  // namespace trimtab
