// Root mean square norm on the CPU; the reciprocal root is computed again in the backward, which reads the row anyway.
// Compiled once per instruction set.
#include "kernels/rms_norm/rms_norm.h"

#include <cmath>

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)   // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm/rms_norm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/product/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE T reciprocal_root(const T* x, int64_t width, double epsilon) {
  const hn::ScalableTag<T> d;
  auto total = hn::Zero(d);
  for_vectors(d, width, [&](int64_t i) { total = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, x + i), total); },
              [&](int64_t i, int64_t n) { total = hn::MulAdd(load_lanes(d, x + i, n), load_lanes(d, x + i, n), total); });
  return 1 / std::sqrt(hn::GetLane(hn::SumOfLanes(d, total)) / static_cast<T>(width) + static_cast<T>(epsilon));
}

template <class T>
void norm(const RmsNorm<T>& a) {
  const hn::ScalableTag<T> d;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* x = a.x + row * a.x_stride;
    T* y = a.y + row * a.y_stride;
    const auto root = hn::Set(d, reciprocal_root(x, a.width, a.epsilon));
    for_vectors(d, a.width, [&](int64_t i) { hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), root), hn::LoadU(d, a.weight + i)), d, y + i); },
                [&](int64_t i, int64_t n) {
                  store_lanes(hn::Mul(hn::Mul(load_lanes(d, x + i, n), root), load_lanes(d, a.weight + i, n)), d, y + i, n);
                });
  }
}

// Sum of weight dy x, for the part of the gradient that keeps the row's length.
template <class T>
HWY_INLINE T along(const T* weight, const T* dy, const T* x, int64_t width) {
  const hn::ScalableTag<T> d;
  auto total = hn::Zero(d);
  for_vectors(d, width,
              [&](int64_t i) { total = hn::MulAdd(hn::Mul(hn::LoadU(d, weight + i), hn::LoadU(d, dy + i)), hn::LoadU(d, x + i), total); },
              [&](int64_t i, int64_t n) {
                total = hn::MulAdd(hn::Mul(load_lanes(d, weight + i, n), load_lanes(d, dy + i, n)), load_lanes(d, x + i, n), total);
              });
  return hn::GetLane(hn::SumOfLanes(d, total));
}

template <class T>
void gradient(const RmsNormGradient<T>& a) {
  const hn::ScalableTag<T> d;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T *x = a.x + row * a.x_stride, *dy = a.dy + row * a.dy_stride, *base = a.base ? a.base + row * a.base_stride : nullptr;
    T* dx = a.dx + row * a.dx_stride;
    const T r = reciprocal_root(x, a.width, a.epsilon);
    const auto root = hn::Set(d, r), back = hn::Set(d, r * r * r * along(a.weight, dy, x, a.width) / static_cast<T>(a.width));
    const auto step = [&](auto x_i, auto dy_i, auto w_i, auto base_i, auto& dx_i, auto& dw_i) {
      dw_i = hn::MulAdd(hn::Mul(dy_i, x_i), root, dw_i);
      dx_i = hn::Add(base_i, hn::NegMulAdd(x_i, back, hn::Mul(hn::Mul(dy_i, w_i), root)));
    };
    for_vectors(d, a.width,
                [&](int64_t i) {
                  auto out = hn::Zero(d), dw = hn::LoadU(d, a.d_weight + i);
                  step(hn::LoadU(d, x + i), hn::LoadU(d, dy + i), hn::LoadU(d, a.weight + i), base ? hn::LoadU(d, base + i) : hn::Zero(d), out, dw);
                  hn::StoreU(out, d, dx + i), hn::StoreU(dw, d, a.d_weight + i);
                },
                [&](int64_t i, int64_t n) {
                  auto out = hn::Zero(d), dw = load_lanes(d, a.d_weight + i, n);
                  step(load_lanes(d, x + i, n), load_lanes(d, dy + i, n), load_lanes(d, a.weight + i, n),
                       base ? load_lanes(d, base + i, n) : hn::Zero(d), out, dw);
                  store_lanes(out, d, dx + i, n), store_lanes(dw, d, a.d_weight + i, n);
                });
  }
}

void norm_f32(const RmsNorm<float>& a) { norm(a); }
void norm_f64(const RmsNorm<double>& a) { norm(a); }
void gradient_f32(const RmsNormGradient<float>& a) { gradient(a); }
void gradient_f64(const RmsNormGradient<double>& a) { gradient(a); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(norm_f32);
HWY_EXPORT(norm_f64);
HWY_EXPORT(gradient_f32);
HWY_EXPORT(gradient_f64);

template <class Arguments>
void check(const Arguments& a) {
  TT_CHECK(a.rows >= 0 && a.width >= 1, "{} rows of {}", a.rows, a.width);
  TT_CHECK(a.rows == 0 || (a.x && a.weight && a.x_stride >= a.width), "an array is missing, or its rows overlap");
}

}  // namespace

void rms_norm(const RmsNorm<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(norm_f32)(a); }
void rms_norm(const RmsNorm<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(norm_f64)(a); }
void rms_norm_gradient(const RmsNormGradient<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(gradient_f32)(a); }
void rms_norm_gradient(const RmsNormGradient<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(gradient_f64)(a); }

}  // namespace trimtab
#endif  // HWY_ONCE
