// Softmax over a vocabulary on the CPU. Compiled once per instruction set.
#include "kernels/token_softmax/token_softmax.h"

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/token_softmax/token_softmax_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr float kNever = -3e38f;   // of the padding: its exp is 0, and 0 times it is not NaN

TokenSoftmax softmax(float* logits, int64_t n, float inverse_temperature, float* e, float* block_sums) {
  const D d;
  const int64_t lanes = hn::Lanes(d), padded = (n + kSoftmaxBlock - 1) / kSoftmaxBlock * kSoftmaxBlock;
  for (int64_t j = n; j < padded; ++j) logits[j] = kNever;
  V most = hn::Set(d, kNever), nothing = hn::Zero(d);
  for (int64_t j = 0; j < padded; j += lanes) {
    const V x = hn::LoadU(d, logits + j);
    most = hn::Max(most, x);
    nothing = hn::MulAdd(x, hn::Zero(d), nothing);   // NaN from NaN and infinities
  }
  TokenSoftmax out;
  if (!hn::AllTrue(d, hn::Eq(nothing, hn::Zero(d)))) return {.finite = false};
  out.max = hn::GetLane(hn::MaxOfLanes(d, most));
  const V max = hn::Set(d, out.max), scale = hn::Set(d, inverse_temperature);
  for (int64_t j = 0; j < padded; j += lanes) {
    const auto equal = hn::Eq(hn::LoadU(d, logits + j), max);
    if (hn::AllFalse(d, equal)) continue;
    out.argmax = j + hn::FindFirstTrue(d, equal);
    break;
  }
  for (int64_t j = 0, b = 0; j < padded; j += kSoftmaxBlock, ++b) {
    V sum = hn::Zero(d);
    for (int64_t i = j; i < j + kSoftmaxBlock; i += lanes) {
      const V value = hn::Exp(d, hn::Max(hn::Mul(hn::Sub(hn::LoadU(d, logits + i), max), scale), hn::Set(d, -200.0f)));
      hn::StoreU(value, d, e + i);
      sum = hn::Add(sum, value);
    }
    block_sums[b] = hn::GetLane(hn::SumOfLanes(d, sum));
    out.sum += block_sums[b];
  }
  return out;
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {

HWY_EXPORT(softmax);

TokenSoftmax token_softmax(float* logits, int64_t n, float inverse_temperature, float* e, float* block_sums) {
  TT_CHECK_GE(n, 1);
  return HWY_DYNAMIC_DISPATCH(softmax)(logits, n, inverse_temperature, e, block_sums);
}

}  // namespace trimtab
#endif  // HWY_ONCE
