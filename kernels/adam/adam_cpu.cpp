// Adam and the gradient norm on the CPU: one pass each, compiled once per instruction set.
#include "kernels/adam/adam.h"

#include <cmath>

#include "core/error.h"

#ifndef TRIMTAB_KERNELS_ADAM_SCALARS_
#define TRIMTAB_KERNELS_ADAM_SCALARS_
namespace trimtab {

// The scalars of one step, rounded once. lr_hat and eps_hat carry the bias corrections:
// lr m^ / (sqrt(v^) + eps) = lr_hat m / (sqrt(v) + eps_hat) with lr_hat = lr sqrt(c2) / c1, eps_hat = eps
// sqrt(c2).
struct AdamScalars {
  float scale, beta1, one_beta1, beta2, one_beta2, keep, lr_hat, eps_hat;
};

}  // namespace trimtab
#endif

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/adam/adam_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/activation/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE void update(D d, const AdamScalars& s, float* p, const float* gradient, float* m, float* v) {
  const auto g = hn::Mul(hn::LoadU(d, gradient), hn::Set(d, s.scale));
  const auto first = hn::MulAdd(hn::Set(d, s.beta1), hn::LoadU(d, m), hn::Mul(hn::Set(d, s.one_beta1), g));
  const auto second =
      hn::MulAdd(hn::Set(d, s.beta2), hn::LoadU(d, v), hn::Mul(hn::Set(d, s.one_beta2), hn::Mul(g, g)));
  const auto move = hn::Mul(hn::Mul(hn::Set(d, s.lr_hat), first),
                            fast_reciprocal(d, hn::Add(fast_sqrt(d, second), hn::Set(d, s.eps_hat))));
  hn::StoreU(first, d, m);
  hn::StoreU(second, d, v);
  hn::StoreU(hn::Sub(hn::Mul(hn::LoadU(d, p), hn::Set(d, s.keep)), move), d, p);
}

void adam(const AdamStep& a, const AdamScalars& s) {
  const hn::ScalableTag<float> d;
  const int64_t n = hn::Lanes(d);
  int64_t i = 0;
  for (; i + n <= a.size; i += n) update(d, s, a.parameters + i, a.gradient + i, a.m + i, a.v + i);
  const hn::CappedTag<float, 1> one;
  for (; i < a.size; ++i) update(one, s, a.parameters + i, a.gradient + i, a.m + i, a.v + i);
}

// As many partial sums in double whatever the vector width, so that every instruction set adds in one order;
// enough of them to hide the latency of addition.
double norm(const float* x, int64_t size) {
  constexpr int kSums = 32;
  double sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= size; i += kSums)
    for (int k = 0; k < kSums; ++k) sum[k] += static_cast<double>(x[i + k]) * x[i + k];
  for (int k = 0; i < size; ++i, ++k) sum[k] += static_cast<double>(x[i]) * x[i];
  double total = 0;
  for (const double part : sum) total += part;
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(adam);
HWY_EXPORT(norm);

}  // namespace

void adam_step(const AdamStep& a) {
  TT_CHECK(a.step >= 1 && a.size >= 0, "step {}, size {}", a.step, a.size);
  const double c1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double root_c2 = std::sqrt(1 - std::pow(a.beta2, static_cast<double>(a.step)));
  const auto f = [](double x) { return static_cast<float>(x); };
  HWY_DYNAMIC_DISPATCH(adam)
  (a, AdamScalars{f(a.gradient_scale), f(a.beta1), f(1 - a.beta1), f(a.beta2), f(1 - a.beta2),
                  f(1 - a.lr * a.weight_decay), f(a.lr * root_c2 / c1), f(a.eps * root_c2)});
}

double squared_norm(const float* x, int64_t size) { return HWY_DYNAMIC_DISPATCH(norm)(x, size); }

double clip_scale(double squared_norm, double max_norm) {
  const double norm = std::sqrt(squared_norm);
  return max_norm > 0 && norm > max_norm ? max_norm / norm : 1;
}

}  // namespace trimtab
#endif  // HWY_ONCE
