// Log-probabilities of tokens on the CPU: two passes over a row of logits forward, one backward. Compiled once per instruction set.
#include "kernels/token_logprob/token_logprob.h"

#include <cmath>
#include <limits>

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)   // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/token_logprob/token_logprob_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/product/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE T largest(const T* z, int64_t n) {
  const hn::ScalableTag<T> d;
  auto top = hn::Set(d, -std::numeric_limits<T>::infinity());
  for_vectors(d, n, [&](int64_t i) { top = hn::Max(top, hn::LoadU(d, z + i)); },
              [&](int64_t i, int64_t lanes) { top = hn::Max(top, hn::IfThenElse(hn::FirstN(d, lanes), load_lanes(d, z + i, lanes), top)); });
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

template <class T>
void logprob(const TokenLogprob<T>& a) {
  const hn::ScalableTag<T> d;
  const T inverse = static_cast<T>(1 / a.temperature);
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* z = a.logits + row * a.vocab;
    const T top = largest(z, a.vocab);
    const auto shift = hn::Set(d, top), factor = hn::Set(d, inverse);
    // Of the scores below the largest: their weights, and the weights' mean score.
    auto sum = hn::Zero(d), mean = hn::Zero(d);
    const auto score = [&](auto v) { return hn::Mul(hn::Sub(v, shift), factor); };
    for_vectors(d, a.vocab,
                [&](int64_t i) {
                  const auto s = score(hn::LoadU(d, z + i)), w = hn::Exp(d, s);
                  sum = hn::Add(sum, w), mean = hn::MulAdd(w, s, mean);
                },
                [&](int64_t i, int64_t n) {
                  const auto s = score(load_lanes(d, z + i, n)), w = hn::IfThenElseZero(hn::FirstN(d, n), hn::Exp(d, s));
                  sum = hn::Add(sum, w), mean = hn::MulAdd(w, s, mean);
                });
    const T total = hn::GetLane(hn::SumOfLanes(d, sum)), log_total = std::log(total);
    a.lse[row] = top * inverse + log_total;
    a.logp[row] = (z[a.tokens[row]] - top) * inverse - log_total;
    a.entropy[row] = log_total - hn::GetLane(hn::SumOfLanes(d, mean)) / total;
  }
}

template <class T>
void gradient(const TokenLogprobGradient<T>& a) {
  const hn::ScalableTag<T> d;
  const T inverse = static_cast<T>(1 / a.temperature);
  const auto factor = hn::Set(d, inverse);
  for (int64_t row = 0; row < a.rows; ++row) {
    T* z = a.logits + row * a.vocab;
    const T d_logp = a.d_logp ? a.d_logp[row] * inverse : 0, d_entropy = a.d_entropy ? a.d_entropy[row] * inverse : 0;
    const auto lse = hn::Set(d, a.lse[row]), by_entropy = hn::Set(d, d_entropy), fixed = hn::Set(d, d_logp + d_entropy * a.entropy[row]);
    const auto step = [&](auto v) {   // -p (d_logp + d_entropy (log p + H))
      const auto log_p = hn::MulSub(v, factor, lse);
      return hn::Neg(hn::Mul(hn::Exp(d, log_p), hn::MulAdd(by_entropy, log_p, fixed)));
    };
    for_vectors(d, a.vocab, [&](int64_t i) { hn::StoreU(step(hn::LoadU(d, z + i)), d, z + i); },
                [&](int64_t i, int64_t n) { store_lanes(step(load_lanes(d, z + i, n)), d, z + i, n); });
    z[a.tokens[row]] += d_logp;
  }
}

void logprob_f32(const TokenLogprob<float>& a) { logprob(a); }
void logprob_f64(const TokenLogprob<double>& a) { logprob(a); }
void gradient_f32(const TokenLogprobGradient<float>& a) { gradient(a); }
void gradient_f64(const TokenLogprobGradient<double>& a) { gradient(a); }

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(logprob_f32);
HWY_EXPORT(logprob_f64);
HWY_EXPORT(gradient_f32);
HWY_EXPORT(gradient_f64);

template <class Arguments>
void check(const Arguments& a) {
  TT_CHECK(a.rows >= 0 && a.vocab >= 1, "{} rows of {} logits", a.rows, a.vocab);
  TT_CHECK(a.rows == 0 || (a.logits && a.tokens && a.lse && a.entropy), "an array is missing");
  for (int64_t row = 0; row < a.rows; ++row) TT_CHECK(a.tokens[row] >= 0 && a.tokens[row] < a.vocab, "token {} of {}", a.tokens[row], a.vocab);
}

}  // namespace

void token_logprob(const TokenLogprob<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(logprob_f32)(a); }
void token_logprob(const TokenLogprob<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(logprob_f64)(a); }
void token_logprob_gradient(const TokenLogprobGradient<float>& a) { check(a), HWY_DYNAMIC_DISPATCH(gradient_f32)(a); }
void token_logprob_gradient(const TokenLogprobGradient<double>& a) { check(a), HWY_DYNAMIC_DISPATCH(gradient_f64)(a); }

}  // namespace trimtab
#endif  // HWY_ONCE
