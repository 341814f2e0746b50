// Elementwise functions on SIMD vectors, for inclusion by kernels that are compiled once per instruction set
// (Highway's foreach_target). Accuracy over all finite inputs is in README.md and tested in
// activation_test.cpp.
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

// 1 / x for positive normal x: the processor's estimate and one Newton step where there is a good estimate.
// The division unit of AVX-512 takes 16 cycles a vector, this takes 4.
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

// sqrt(x) for x >= 0 as x times the processor's estimate of 1 / sqrt(x) after one Newton step. Below 1e-37
// the result is smaller than 1e-18 and not accurate.
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

// The smaller and the larger of a limit and x, where NaN in x stays NaN: x86 answers with its second operand,
// the portable target with the other number.
template <class V>
HWY_INLINE V at_most(V limit, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Gt(x, limit), limit, x);
#else
  return hn::Min(limit, x);
#endif
}
template <class V>
HWY_INLINE V at_least(V limit, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Lt(x, limit), limit, x);
#else
  return hn::Max(limit, x);
#endif
}

// tanh by x P(x^2) / Q(x^2), of degrees 3 and 4, fitted here to the least largest relative error (1.2e-7)
// over |x| <= 7.8. Beyond, the value at 7.8 (1 - 3.4e-7) stands for all: so far from 1 that rounding cannot
// carry the result over it, and 1 - y^2 is never negative.
template <class D, class V>
HWY_INLINE V fast_tanh(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  x = at_least(hn::Set(d, -7.8f), at_most(hn::Set(d, 7.8f), x));
  const V t = hn::Mul(x, x);
  V p = hn::Set(d, 1.163576540e-05f);
  p = hn::MulAdd(p, t, hn::Set(d, 2.969893780e-03f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.294312056e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, 9.999998830e-01f));
  V q = hn::Set(d, 2.526250177e-07f);
  q = hn::MulAdd(q, t, hn::Set(d, 2.413552512e-04f));
  q = hn::MulAdd(q, t, hn::Set(d, 2.389241773e-02f));
  q = hn::MulAdd(q, t, hn::Set(d, 4.627635758e-01f));
  q = hn::MulAdd(q, t, hn::Set(d, 1.0f));
  return hn::Mul(hn::Mul(x, p), fast_reciprocal(d, q));
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#endif
