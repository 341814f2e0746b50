// Small matrix product y (+)= x b on registers, for inclusion by kernels that are compiled once per instruction set:
//
//   y[r][c] = (add ? y[r][c] : 0) + sum_k x[r * x_row + k * x_inner] b[k][c]
//
// A tile of R rows by V vectors of columns stays in registers over the whole inner loop: one load of b per vector and one
// broadcast of x per row feed R * V fused multiply-adds. Sums run over k in ascending order.
#if defined(TRIMTAB_KERNELS_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TRIMTAB_KERNELS_PRODUCT_INL_H_
#undef TRIMTAB_KERNELS_PRODUCT_INL_H_
#else
#define TRIMTAB_KERNELS_PRODUCT_INL_H_
#endif

#include "kernels/product/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {

template <class T>
struct SmallProduct {
  int64_t rows, inner, columns;
  const T* x;
  int64_t x_row, x_inner;
  const T* b;   // [inner, columns]
  int64_t b_stride;
  T* y;         // [rows, columns]
  int64_t y_stride;
  bool add;
};

// With kPartial only `lanes` columns of the last vector exist.
template <class T, int kR, int kV, bool kPartial>
HWY_NOINLINE void product_tile(const SmallProduct<T>& p, int64_t row, int64_t column, int64_t lanes) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<T> d;
  using V = hn::Vec<hn::ScalableTag<T>>;
  const int64_t n = hn::Lanes(d);
  T* y = p.y + row * p.y_stride + column;
  V sum[kR][kV];
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v)
      sum[r][v] = !p.add                       ? hn::Zero(d)
                  : kPartial && v == kV - 1 ? load_lanes(d, y + r * p.y_stride + v * n, lanes)
                                            : hn::LoadU(d, y + r * p.y_stride + v * n);
  }
  const T* x = p.x + row * p.x_row;
  const T* b = p.b + column;
  for (int64_t k = 0; k < p.inner; ++k, x += p.x_inner, b += p.b_stride) {
    V factor[kV];
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) factor[v] = kPartial && v == kV - 1 ? load_lanes(d, b + v * n, lanes) : hn::LoadU(d, b + v * n);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      const V one = hn::Set(d, x[r * p.x_row]);
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) sum[r][v] = hn::MulAdd(one, factor[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      if (kPartial && v == kV - 1) store_lanes(sum[r][v], d, y + r * p.y_stride + v * n, lanes);
      else hn::StoreU(sum[r][v], d, y + r * p.y_stride + v * n);
    }
  }
}

template <class T, int kV, bool kPartial>
HWY_INLINE void product_panel(const SmallProduct<T>& p, int64_t column, int64_t lanes) {
  int64_t row = 0;
  for (; row + 6 <= p.rows; row += 6) product_tile<T, 6, kV, kPartial>(p, row, column, lanes);
  if (row + 4 <= p.rows) product_tile<T, 4, kV, kPartial>(p, row, column, lanes), row += 4;
  if (row + 2 <= p.rows) product_tile<T, 2, kV, kPartial>(p, row, column, lanes), row += 2;
  if (row < p.rows) product_tile<T, 1, kV, kPartial>(p, row, column, lanes);
}

template <class T, int kV>
HWY_INLINE void last_product_panel(const SmallProduct<T>& p, int64_t column) {
  const int64_t n = hwy::HWY_NAMESPACE::Lanes(hwy::HWY_NAMESPACE::ScalableTag<T>()), left = p.columns - column;
  if (left <= (kV - 1) * n) {
    if constexpr (kV > 1) last_product_panel<T, kV - 1>(p, column);
  } else if (left == kV * n) {
    product_panel<T, kV, false>(p, column, n);
  } else {
    product_panel<T, kV, true>(p, column, left - (kV - 1) * n);
  }
}

template <class T>
void small_product(const SmallProduct<T>& p) {
  // AVX-512 has 32 registers: 6 x 4 sums, 4 of b, 1 of x. The others have 16: 6 x 2 sums, 2 of b, 1 of x.
  constexpr int kVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
  const int64_t width = kVectors * hwy::HWY_NAMESPACE::Lanes(hwy::HWY_NAMESPACE::ScalableTag<T>());
  int64_t column = 0;
  for (; column + width <= p.columns; column += width) product_panel<T, kVectors, false>(p, column, width);
  if (column < p.columns) last_product_panel<T, kVectors>(p, column);
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#endif
