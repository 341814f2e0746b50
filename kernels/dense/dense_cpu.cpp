// Dense layer on the CPU: the three products of dense.h are one register-tiled product
//
//   y[r][c] = f( base[r][c] + sum_k x(r, k) b[k][c] )
//
// with different strides of x. A tile of R rows by V vectors of columns stays in registers over the whole
// inner loop: one load of b per vector and one broadcast of x per row feed R * V fused multiply-adds.
// Compiled once per instruction set.
#include "kernels/dense/dense.h"

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/dense_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/activation/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// What happens to a finished sum before it is stored; the last two multiply by act'(gate), gate = act(...).
enum class Finish { kNone, kTanh, kRelu, kTanhGradient, kReluGradient };

struct Product {
  int64_t rows, inner, columns;
  const float* x;  // x(r, k) = x[r * x_row + k * x_inner]
  int64_t x_row, x_inner;
  const float* b;  // [inner, columns]
  int64_t b_stride;
  DenseBase base;
  Finish finish;
  const float* gate;  // [rows, columns]
  int64_t gate_stride;
  float* y;  // [rows, columns]
  int64_t y_stride;
};

// AVX-512 has 32 registers: 6 x 4 sums, 4 of b, 1 of x. The others have 16: 6 x 2 sums, 2 of b, 1 of x.
constexpr int kVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
constexpr int kRows = 6;

template <bool kPartial>
HWY_INLINE V load(const float* p, int64_t lanes) {
  const D d;
  if constexpr (!kPartial) return hn::LoadU(d, p);
#if HWY_TARGET <= HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, lanes), d, p);
#else
  HWY_ALIGN float part[hn::MaxLanes(d)] = {};
  for (int64_t i = 0; i < lanes; ++i) part[i] = p[i];
  return hn::Load(d, part);
#endif
}

template <bool kPartial>
HWY_INLINE void store(V v, float* p, int64_t lanes) {
  const D d;
  if constexpr (!kPartial) {
    hn::StoreU(v, d, p);
  } else {
#if HWY_TARGET <= HWY_AVX3
    hn::BlendedStore(v, hn::FirstN(d, lanes), d, p);
#else
    HWY_ALIGN float part[hn::MaxLanes(d)];
    hn::Store(v, d, part);
    for (int64_t i = 0; i < lanes; ++i) p[i] = part[i];
#endif
  }
}

HWY_INLINE V finished(V sum, Finish finish, V gate) {
  const D d;
  switch (finish) {
    case Finish::kNone:
      return sum;
    case Finish::kTanh:
      return fast_tanh(d, sum);
    case Finish::kRelu:
      return at_least(hn::Zero(d), sum);
    case Finish::kTanhGradient:
      return hn::Mul(sum, hn::NegMulAdd(gate, gate, hn::Set(d, 1.0f)));
    case Finish::kReluGradient:
      return hn::IfThenElseZero(hn::Gt(gate, hn::Zero(d)), sum);
  }
  return sum;
}

// Finishes columns column..column+columns-1 of some rows, which hold bare sums, while they are in the
// first-level cache. Apart from the tile, so that its many instances stay small.
template <Finish kFinish>
HWY_NOINLINE void finish_columns(const Product& p, int64_t row, int64_t rows, int64_t column,
                                 int64_t columns) {
  const D d;
  const int64_t n = hn::Lanes(d);
  constexpr bool kGated = kFinish == Finish::kTanhGradient || kFinish == Finish::kReluGradient;
  for (int64_t r = row; r < row + rows; ++r) {
    float* y = p.y + r * p.y_stride + column;
    const float* gate = kGated ? p.gate + r * p.gate_stride + column : y;
    int64_t c = 0;
    for (; c + n <= columns; c += n)
      hn::StoreU(finished(hn::LoadU(d, y + c), kFinish, hn::LoadU(d, gate + c)), d, y + c);
    if (c < columns)
      store<true>(finished(load<true>(y + c, columns - c), kFinish, load<true>(gate + c, columns - c)), y + c,
                  columns - c);
  }
}

void finish(const Product& p, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  switch (p.finish) {
    case Finish::kNone:
      return;
    case Finish::kTanh:
      return finish_columns<Finish::kTanh>(p, row, rows, column, columns);
    case Finish::kRelu:
      return finish_columns<Finish::kRelu>(p, row, rows, column, columns);
    case Finish::kTanhGradient:
      return finish_columns<Finish::kTanhGradient>(p, row, rows, column, columns);
    case Finish::kReluGradient:
      return finish_columns<Finish::kReluGradient>(p, row, rows, column, columns);
  }
}

// Rows row..row+kR-1, columns column..column+kV*N-1; with kPartial only `lanes` columns of the last vector
// exist.
template <int kR, int kV, bool kPartial>
HWY_NOINLINE void tile(const Product& p, int64_t row, int64_t column, int64_t lanes) {
  const D d;
  const int64_t n = hn::Lanes(d);
  V sum[kR][kV];
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
    const float* base = p.base.data;
    if (base) base += (p.base.row ? p.base.row[row + r] : row + r) * p.base.stride + column;
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      const bool last = kPartial && v == kV - 1;
      sum[r][v] = !base  ? hn::Zero(d)
                  : last ? load<kPartial>(base + v * n, lanes)
                         : hn::LoadU(d, base + v * n);
    }
  }
  const float* x = p.x + row * p.x_row;
  const float* b = p.b + column;
  for (int64_t k = 0; k < p.inner; ++k, x += p.x_inner, b += p.b_stride) {
    V weight[kV];
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v)
      weight[v] = kPartial && v == kV - 1 ? load<kPartial>(b + v * n, lanes) : hn::LoadU(d, b + v * n);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      const V factor = hn::Set(d, x[r * p.x_row]);
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) sum[r][v] = hn::MulAdd(factor, weight[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
    float* y = p.y + (row + r) * p.y_stride + column;
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      if (kPartial && v == kV - 1) {
        store<kPartial>(sum[r][v], y + v * n, lanes);
      } else {
        hn::StoreU(sum[r][v], d, y + v * n);
      }
    }
  }
  finish(p, row, kR, column, kPartial ? (kV - 1) * n + lanes : kV * n);
}

template <int kV, bool kPartial>
void column_panel(const Product& p, int64_t column, int64_t lanes) {
  int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) tile<kRows, kV, kPartial>(p, row, column, lanes);
  if (row + 4 <= p.rows) tile<4, kV, kPartial>(p, row, column, lanes), row += 4;
  if (row + 2 <= p.rows) tile<2, kV, kPartial>(p, row, column, lanes), row += 2;
  if (row < p.rows) tile<1, kV, kPartial>(p, row, column, lanes);
}

template <int kV>
void last_panel(const Product& p, int64_t column) {
  const int64_t n = hn::Lanes(D()), left = p.columns - column;
  if (left <= (kV - 1) * n) {
    if constexpr (kV > 1) last_panel<kV - 1>(p, column);
  } else if (left == kV * n) {
    column_panel<kV, false>(p, column, n);
  } else {
    column_panel<kV, true>(p, column, left - (kV - 1) * n);
  }
}

void product(const Product& p) {
  const int64_t width = kVectors * hn::Lanes(D());
  int64_t column = 0;
  for (; column + width <= p.columns; column += width) column_panel<kVectors, false>(p, column, width);
  if (column < p.columns) last_panel<kVectors>(p, column);
}

// Layers of few outputs would leave most lanes of a vector of outputs empty: their vectors run along the
// inputs instead.
constexpr int64_t kNarrow = 4, kNarrowInputs = 512;

bool is_narrow(int64_t in, int64_t out) { return out <= kNarrow && in <= kNarrowInputs && in >= 4 * out; }

void narrow_forward(const DenseForward& a, const Product& p) {
  const D d;
  const int64_t n = hn::Lanes(d), whole = a.in / n * n;
  HWY_ALIGN float weight[kNarrow * kNarrowInputs];  // [out, in]
  for (int64_t c = 0; c < a.out; ++c)
    for (int64_t k = 0; k < a.in; ++k) weight[c * kNarrowInputs + k] = a.weight[k * a.weight_stride + c];
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* x = a.x + r * a.x_stride;
    const float* base = a.base.data;
    if (base) base += (a.base.row ? a.base.row[r] : r) * a.base.stride;
    for (int64_t c = 0; c < a.out; ++c) {
      const float* w = weight + c * kNarrowInputs;
      V sum = hn::Zero(d);
      for (int64_t k = 0; k < whole; k += n) sum = hn::MulAdd(hn::LoadU(d, x + k), hn::LoadU(d, w + k), sum);
      if (whole < a.in)
        sum = hn::MulAdd(load<true>(x + whole, a.in - whole), load<true>(w + whole, a.in - whole), sum);
      a.y[r * a.y_stride + c] = hn::GetLane(hn::SumOfLanes(d, sum)) + (base ? base[c] : 0.0f);
    }
  }
  finish(p, 0, a.rows, 0, a.out);
}

void forward(const DenseForward& a) {
  const Finish finish = a.activation == Activation::kTanh   ? Finish::kTanh
                        : a.activation == Activation::kRelu ? Finish::kRelu
                                                            : Finish::kNone;
  const Product p = {a.rows,          a.in,   a.out,  a.x,     a.x_stride, 1,   a.weight,
                     a.weight_stride, a.base, finish, nullptr, 0,          a.y, a.y_stride};
  is_narrow(a.in, a.out) ? narrow_forward(a, p) : product(p);
}

void input_gradient(const DenseInputGradient& a) {
  const Finish finish = a.activation == Activation::kTanh   ? Finish::kTanhGradient
                        : a.activation == Activation::kRelu ? Finish::kReluGradient
                                                            : Finish::kNone;
  product({a.rows, a.out, a.in, a.dy, a.dy_stride, 1, a.weight_transposed, a.weight_stride, a.base, finish,
           a.x, a.x_stride, a.dx, a.dx_stride});
}

// Rows of x and dy that are summed before the tile's sums go back to dw: both chunks then stay in the
// first-level cache.
constexpr int64_t kChunk = 64;

void narrow_weight_gradient(const DenseWeightGradient& a) {
  HWY_ALIGN float dw[kNarrow * kNarrowInputs];  // [out, in]
  product({a.out,
           a.rows,
           a.in,
           a.dy,
           1,
           a.dy_stride,
           a.x,
           a.x_stride,
           {},
           Finish::kNone,
           nullptr,
           0,
           dw,
           kNarrowInputs});
  for (int64_t k = 0; k < a.in; ++k)
    for (int64_t c = 0; c < a.out; ++c) a.dw[k * a.dw_stride + c] += dw[c * kNarrowInputs + k];
}

void weight_gradient(const DenseWeightGradient& a) {
  if (is_narrow(a.in, a.out)) return narrow_weight_gradient(a);
  for (int64_t row = 0; row < a.rows; row += kChunk) {
    const int64_t rows = HWY_MIN(kChunk, a.rows - row);
    product({a.in,
             rows,
             a.out,
             a.x + row * a.x_stride,
             1,
             a.x_stride,
             a.dy + row * a.dy_stride,
             a.dy_stride,
             {a.dw, a.dw_stride, nullptr},
             Finish::kNone,
             nullptr,
             0,
             a.dw,
             a.dw_stride});
  }
}

template <int kV>
HWY_INLINE void column_sum_panel(int64_t rows, const float* x, int64_t x_stride, float* sum) {
  const D d;
  const int64_t n = hn::Lanes(d);
  V total[kV];
#pragma GCC unroll 8
  for (int v = 0; v < kV; ++v) total[v] = hn::LoadU(d, sum + v * n);
  for (int64_t row = 0; row < rows; ++row, x += x_stride) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) total[v] = hn::Add(total[v], hn::LoadU(d, x + v * n));
  }
#pragma GCC unroll 8
  for (int v = 0; v < kV; ++v) hn::StoreU(total[v], d, sum + v * n);
}

void column_sums(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* sum) {
  const int64_t n = hn::Lanes(D());
  int64_t column = 0;
  for (; column + 4 * n <= columns; column += 4 * n)
    column_sum_panel<4>(rows, x + column, x_stride, sum + column);
  for (; column + n <= columns; column += n) column_sum_panel<1>(rows, x + column, x_stride, sum + column);
  for (; column < columns; ++column) {
    float total = sum[column];
    for (int64_t row = 0; row < rows; ++row) total += x[row * x_stride + column];
    sum[column] = total;
  }
}

// y = x^T by squares of 4 x 4, in registers of four.
void transpose(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
  int64_t done_rows = 0, done_columns = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  done_rows = rows / 4 * 4;
  done_columns = columns / 4 * 4;
  for (int64_t j = 0; j < done_columns; j += 4) {
    for (int64_t i = 0; i < done_rows; i += 4) {
      const float* from = x + i * x_stride + j;
      const auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + x_stride);
      const auto r2 = hn::LoadU(d, from + 2 * x_stride), r3 = hn::LoadU(d, from + 3 * x_stride);
      const auto even = hn::InterleaveLower(d, r0, r2), odd = hn::InterleaveLower(d, r1, r3);
      const auto even_high = hn::InterleaveUpper(d, r0, r2), odd_high = hn::InterleaveUpper(d, r1, r3);
      float* to = y + j * y_stride + i;
      hn::StoreU(hn::InterleaveLower(d, even, odd), d, to);
      hn::StoreU(hn::InterleaveUpper(d, even, odd), d, to + y_stride);
      hn::StoreU(hn::InterleaveLower(d, even_high, odd_high), d, to + 2 * y_stride);
      hn::StoreU(hn::InterleaveUpper(d, even_high, odd_high), d, to + 3 * y_stride);
    }
  }
#endif
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = i < done_rows ? done_columns : 0; j < columns; ++j)
      y[j * y_stride + i] = x[i * x_stride + j];
}

std::string target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(forward);
HWY_EXPORT(input_gradient);
HWY_EXPORT(weight_gradient);
HWY_EXPORT(column_sums);
HWY_EXPORT(transpose);
HWY_EXPORT(target_name);

void check_matrix(const char* name, int64_t rows, int64_t columns, const void* data, int64_t stride) {
  TT_CHECK(rows >= 0 && columns >= 0, "{} is {} x {}", name, rows, columns);
  TT_CHECK(stride >= columns || rows <= 1, "{} has {} columns but a row stride of {}", name, columns, stride);
  TT_CHECK(data || rows == 0 || columns == 0, "{} is missing", name);
}

}  // namespace

void dense_forward(const DenseForward& a) {
  check_matrix("x", a.rows, a.in, a.x, a.x_stride);
  check_matrix("weight", a.in, a.out, a.weight, a.weight_stride);
  check_matrix("y", a.rows, a.out, a.y, a.y_stride);
  HWY_DYNAMIC_DISPATCH(forward)(a);
}

void dense_input_gradient(const DenseInputGradient& a) {
  check_matrix("dy", a.rows, a.out, a.dy, a.dy_stride);
  check_matrix("weight_transposed", a.out, a.in, a.weight_transposed, a.weight_stride);
  if (a.activation != Activation::kNone) check_matrix("x", a.rows, a.in, a.x, a.x_stride);
  check_matrix("dx", a.rows, a.in, a.dx, a.dx_stride);
  HWY_DYNAMIC_DISPATCH(input_gradient)(a);
}

void dense_weight_gradient(const DenseWeightGradient& a) {
  check_matrix("x", a.rows, a.in, a.x, a.x_stride);
  check_matrix("dy", a.rows, a.out, a.dy, a.dy_stride);
  check_matrix("dw", a.in, a.out, a.dw, a.dw_stride);
  HWY_DYNAMIC_DISPATCH(weight_gradient)(a);
}

void dense_column_sums(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* sum) {
  check_matrix("x", rows, columns, x, x_stride);
  HWY_DYNAMIC_DISPATCH(column_sums)(rows, columns, x, x_stride, sum);
}

void dense_transpose(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                     int64_t y_stride) {
  check_matrix("x", rows, columns, x, x_stride);
  check_matrix("y", columns, rows, y, y_stride);
  HWY_DYNAMIC_DISPATCH(transpose)(rows, columns, x, x_stride, y, y_stride);
}

std::string dense_target() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

}  // namespace trimtab
#endif  // HWY_ONCE
