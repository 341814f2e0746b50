// One dense layer on plain arrays, forward and backward, fused with what surrounds it in a small network:
//
//   forward         y  = act( x W + base[base_row] )                     base: bias row, or one row per group
//   of x's rows input gradient  dx = ( dy W^T + base[base_row] ) * act'(x)           x: the layer's input,
//   itself act(...) of the one below weight gradient dW += x^T dy bias gradient   db += column sums of dy
//
// All arrays are row-major f32; `..._stride` is the distance between rows in elements, at least the number of
// columns. W is [in, out]. No alignment is asked for (64-byte aligned rows are fastest); outputs must not
// overlap inputs. Any extent may be 0. The order of summation is fixed by the layer's extents alone: a row's
// result does not depend on the rows beside it, and a call's result depends on nothing but its arguments and
// the processor type. Wrong shapes are our own errors (TT_CHECK); nothing else can fail. Thread-safe; no
// allocation.
#pragma once

#include <cstdint>
#include <string>

namespace trimtab {

enum class Activation { kNone, kTanh, kRelu };

// A row of `base` starts every sum: row r starts from base + base_row[r] * base_stride.
struct DenseBase {
  const float* data = nullptr;   // null: start from zero
  int64_t stride = 0;            // 0: one row for all (a bias)
  const int32_t* row = nullptr;  // [rows]; null: row r starts from base row r
};

struct DenseForward {
  int64_t rows = 0, in = 0, out = 0;
  const float* x = nullptr;  // [rows, in]
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [in, out]
  int64_t weight_stride = 0;
  DenseBase base;  // rows of [out]
  Activation activation = Activation::kNone;
  float* y = nullptr;  // [rows, out]
  int64_t y_stride = 0;
};
void dense_forward(const DenseForward& layer);

struct DenseInputGradient {
  int64_t rows = 0, in = 0, out = 0;
  const float* dy = nullptr;  // [rows, out]
  int64_t dy_stride = 0;
  const float* weight_transposed = nullptr;  // [out, in], from dense_transpose
  int64_t weight_stride = 0;
  DenseBase base;  // rows of [in]: gradient that reaches x by another way, such as a mean over rows
  Activation activation = Activation::kNone;  // of the layer that made x
  const float* x = nullptr;                   // [rows, in]; may be null with kNone
  int64_t x_stride = 0;
  float* dx = nullptr;  // [rows, in]
  int64_t dx_stride = 0;
};
void dense_input_gradient(const DenseInputGradient& layer);

struct DenseWeightGradient {
  int64_t rows = 0, in = 0, out = 0;
  const float* x = nullptr;  // [rows, in]
  int64_t x_stride = 0;
  const float* dy = nullptr;  // [rows, out]
  int64_t dy_stride = 0;
  float* dw = nullptr;  // [in, out], added to
  int64_t dw_stride = 0;
};
void dense_weight_gradient(const DenseWeightGradient& layer);

// sum[j] += x[0][j] + x[1][j] + ... for x [rows, columns].
void dense_column_sums(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* sum);

// y[j][i] = x[i][j]; x is [rows, columns], y is [columns, rows].
void dense_transpose(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                     int64_t y_stride);

// The instruction set chosen at run time: "AVX3" (AVX-512), "AVX2", ...; for logs and benchmarks.
std::string dense_target();

}  // namespace trimtab
