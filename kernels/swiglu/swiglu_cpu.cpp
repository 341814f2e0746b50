// Gated unit on the CPU. Compiled once per instruction set.
#include "kernels/swiglu/swiglu.h"

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)   // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu/swiglu_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/product/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// By exp of a number that is not positive: nothing overflows.
template <class D, class V>
HWY_INLINE V sigmoid(D d, V x) {
  const V one = hn::Set(d, hn::TFromD<D>{1}), e = hn::Exp(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

template <class T>
void unit(const SwiGlu<T>& a) {
  const hn::ScalableTag<T> d;
  for (int64_t row = 0; row < a.rows; ++row) {
    const T *gate = a.gate_up + row * 2 * a.width, *up = gate + a.width;
    T* y = a.y + row * a.width;
    const auto value = [&](auto g, auto u) { return hn::Mul(hn::Mul(g, sigmoid(d, g)), u); };
    for_vectors(d, a.width, [&](int64_t i) { hn::StoreU(value(hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, y + i); },
                [&](int64_t i, int64_t n) { store_lanes(value(load_lanes(d, gate + i, n), load_lanes(d, up + i, n)), d, y + i, n); });
  }
}

template <class T>
void gradient(const SwiGluGradient<T>& a) {
  const hn::ScalableTag<T> d;
  const auto one = hn::Set(d, T{1});
  for (int64_t row = 0; row < a.rows; ++row) {
    const T *gate = a.gate_up + row * 2 * a.width, *up = gate + a.width, *dy = a.dy + row * a.width;
    T *d_gate = a.d_gate_up + row * 2 * a.width, *d_up = d_gate + a.width, *y = a.y + row * a.width;
    const auto step = [&](auto g, auto u, auto dy_i, auto& dg, auto& du, auto& y_i) {
      const auto s = sigmoid(d, g), silu = hn::Mul(g, s);
      dg = hn::Mul(hn::Mul(dy_i, u), hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one)));
      du = hn::Mul(dy_i, silu);
      y_i = hn::Mul(silu, u);
    };
    auto dg = hn::Zero(d), du = dg, y_i = dg;
    for_vectors(d, a.width,
                [&](int64_t i) {
                  step(hn::LoadU(d, gate + i), hn::LoadU(d, up + i), hn::LoadU(d, dy + i), dg, du, y_i);
                  hn::StoreU(dg, d, d_gate + i), hn::StoreU(du, d, d_up + i), hn::StoreU(y_i, d, y + i);
                },
                [&](int64_t i, int64_t n) {
                  step(load_lanes(d, gate + i, n), load_lanes(d, up + i, n), load_lanes(d, dy + i, n), dg, du, y_i);
                  store_lanes(dg, d, d_gate + i, n), store_lanes(du, d, d_up + i, n), store_lanes(y_i, d, y + i, n);
                });
  }
}

void unit_f32(const SwiGlu<float>& a) { unit(a); }
void unit_f64(const SwiGlu<double>& a) { unit(a); }
void gradient_f32(const SwiGluGradient<float>& a) { gradient(a); }
void gradient_f64(const SwiGluGradient<double>& a) { gradient(a); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(unit_f32);
HWY_EXPORT(unit_f64);
HWY_EXPORT(gradient_f32);
HWY_EXPORT(gradient_f64);

template <class Arguments>
void check(const Arguments& a) {
  TT_CHECK(a.rows >= 0 && a.width >= 1, "{} rows of {}", a.rows, a.width);
  TT_CHECK(a.rows == 0 || (a.gate_up && a.y), "an array is missing");
}

}  // namespace

void swiglu(const SwiGlu<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(unit_f32)(a); }
void swiglu(const SwiGlu<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(unit_f64)(a); }
void swiglu_gradient(const SwiGluGradient<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(gradient_f32)(a); }
void swiglu_gradient(const SwiGluGradient<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(gradient_f64)(a); }

}  // namespace trimtab
#endif  // HWY_ONCE
