// RMSNorm of rows: y = x / sqrt( mean(x^2) + epsilon ) * weight (Zhang and Sennrich, "Root mean square layer normalization", 2019).
//
// Row-major f32; strides are distances between rows. The order of summation is fixed by the number of columns: a row's result
// does not depend on the rows beside it. y may be x. Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

struct RmsNorm {
  int64_t rows = 0, columns = 0;
  const float* x = nullptr;       // [rows, columns]
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [columns]
  float epsilon = 1e-6f;
  float* y = nullptr;             // [rows, columns]
  int64_t y_stride = 0;
};
void rms_norm(const RmsNorm& norm);

}  // namespace trimtab
