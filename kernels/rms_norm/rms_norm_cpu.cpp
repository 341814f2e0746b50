// RMSNorm on the CPU: four vectors of partial sums, the last columns one by one. Compiled once per instruction set.
#include "kernels/rms_norm/rms_norm.h"

#include <cmath>

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // AVX-512, AVX2 and the baseline are enough
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm/rms_norm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

float sum_of_squares(const float* x, int64_t columns) {
  const D d;
  const int64_t n = hn::Lanes(d);
  V sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t c = 0;
  for (; c + 4 * n <= columns; c += 4 * n) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const V value = hn::LoadU(d, x + c + v * n);
      sum[v] = hn::MulAdd(value, value, sum[v]);
    }
  }
  for (; c + n <= columns; c += n) sum[0] = hn::MulAdd(hn::LoadU(d, x + c), hn::LoadU(d, x + c), sum[0]);
  float total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
  for (; c < columns; ++c) total += x[c] * x[c];
  return total;
}

void norm(const RmsNorm& a) {
  const D d;
  const int64_t n = hn::Lanes(d);
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* x = a.x + r * a.x_stride;
    float* y = a.y + r * a.y_stride;
    const float scale = 1 / std::sqrt(sum_of_squares(x, a.columns) / static_cast<float>(a.columns) + a.epsilon);
    const V factor = hn::Set(d, scale);
    int64_t c = 0;
    for (; c + n <= a.columns; c += n) hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + c), factor), hn::LoadU(d, a.weight + c)), d, y + c);
    for (; c < a.columns; ++c) y[c] = x[c] * scale * a.weight[c];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {

HWY_EXPORT(norm);

void rms_norm(const RmsNorm& a) {
  TT_CHECK(a.rows >= 0 && a.columns >= 0, "{} x {}", a.rows, a.columns);
  if (a.rows == 0 || a.columns == 0) return;
  TT_CHECK(a.x && a.weight && a.y, "an array is missing");
  HWY_DYNAMIC_DISPATCH(norm)(a);
}

}  // namespace trimtab
#endif  // HWY_ONCE
