// Elementwise functions on SIMD vectors, for inclusion by kernels that are compiled once per instruction set (Highway's
// foreach_target). Accuracy over all finite inputs is in README.md and tested in activation_test.cpp.
#if defined(TRIMTAB_KERNELS_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TRIMTAB_KERNELS_ACTIVATION_INL_H_
#undef TRIMTAB_KERNELS_ACTIVATION_INL_H_
#else
#define TRIMTAB_KERNELS_ACTIVATION_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {

// 1 / x for positive normal x: the processor's estimate and one Newton step where there is a good estimate. The division
// unit of AVX-512 takes 16 cycles a vector, this takes 4.
template <class D, class V>
HWY_INLINE V fast_reciprocal(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  const V estimate = hn::ApproximateReciprocal(x);
  return hn::Mul(estimate, hn::NegMulAdd(x, estimate, hn::Set(d, 2.0f)));
#else
  return hn::Div(hn::Set(d, 1.0f), x);
#endif
}

// sqrt(x) for x >= 0 as x times the processor's estimate of 1 / sqrt(x) after one Newton step. Below 1e-37 the result is
// smaller than 1e-18 and not accurate.
template <class D, class V>
HWY_INLINE V fast_sqrt(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  const V safe = hn::Max(x, hn::Set(d, 1e-37f));
  const V estimate = hn::ApproximateReciprocalSqrt(safe);
  const V half = hn::Mul(hn::Set(d, 0.5f), estimate);
  const V error = hn::NegMulAdd(hn::Mul(safe, estimate), half, hn::Set(d, 1.5f));
  return hn::Mul(x, hn::Mul(estimate, error));
#else
  (void)d;
  return hn::Sqrt(x);
#endif
}

// tanh by x P(x^2) / Q(x^2), both of degree 4, fitted here to the least largest relative error (2.1e-8) over |x| <= 9,
// beyond which tanh rounds to 1. The result never leaves [-1, 1], so 1 - y^2 is never negative.
template <class D, class V>
HWY_INLINE V fast_tanh(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const V limit = hn::Set(d, 9.0f), one = hn::Set(d, 1.0f);
  x = hn::Max(hn::Min(x, limit), hn::Neg(limit));
  const V t = hn::Mul(x, x);
  V p = hn::Set(d, 1.3354624079785695e-08f);
  p = hn::MulAdd(p, t, hn::Set(d, 2.0609053642753432e-05f));
  p = hn::MulAdd(p, t, hn::Set(d, 3.4955863178333883e-03f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.3381024104057132e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, 9.9999997947841040e-01f));
  V q = hn::Set(d, 7.7765424948080580e-07f);
  q = hn::MulAdd(q, t, hn::Set(d, 3.2856319034989720e-04f));
  q = hn::MulAdd(q, t, hn::Set(d, 2.5876975265342522e-02f));
  q = hn::MulAdd(q, t, hn::Set(d, 4.6714339702555613e-01f));
  q = hn::MulAdd(q, t, one);
  const V y = hn::Mul(hn::Mul(x, p), fast_reciprocal(d, q));
  return hn::Max(hn::Min(y, one), hn::Neg(one));
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#endif
