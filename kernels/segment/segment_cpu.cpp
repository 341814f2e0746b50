// Segment sums and means on the CPU, one vector of columns at a time. Compiled once per instruction set.
#include "kernels/segment/segment.h"

#include "core/error.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/segment/segment_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// kV vectors of columns of `rows` rows.
template <int kV>
HWY_INLINE void panel(const float* x, int64_t rows, int64_t x_stride, float scale, float* y) {
  const hn::ScalableTag<float> d;
  const int64_t n = hn::Lanes(d);
  hn::Vec<decltype(d)> sum[kV];
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) sum[v] = hn::Zero(d);
  for (int64_t r = 0; r < rows; ++r, x += x_stride) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) sum[v] = hn::Add(sum[v], hn::LoadU(d, x + v * n));
  }
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) hn::StoreU(hn::Mul(sum[v], hn::Set(d, scale)), d, y + v * n);
}

void scaled_sums(const SegmentRows& a, bool mean) {
  const int64_t n = hn::Lanes(hn::ScalableTag<float>());
  for (int64_t g = 0; g < a.segments; ++g) {
    const int64_t rows = a.offsets[g + 1] - a.offsets[g];
    const float* x = a.x + a.offsets[g] * a.x_stride;
    float* y = a.y + g * a.y_stride;
    const float scale = mean && rows > 0 ? 1.0f / static_cast<float>(rows) : 1.0f;
    int64_t column = 0;
    for (; column + 4 * n <= a.columns; column += 4 * n)
      panel<4>(x + column, rows, a.x_stride, scale, y + column);
    for (; column + n <= a.columns; column += n) panel<1>(x + column, rows, a.x_stride, scale, y + column);
    for (; column < a.columns; ++column) {
      float sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += x[r * a.x_stride + column];
      y[column] = sum * scale;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
namespace {

HWY_EXPORT(scaled_sums);

void check_segments(const SegmentRows& a) {
  TT_CHECK(a.segments >= 0 && a.columns >= 0, "{} segments of {} columns", a.segments, a.columns);
  TT_CHECK(a.x_stride >= a.columns && a.y_stride >= a.columns, "{} columns, strides {} and {}", a.columns,
           a.x_stride, a.y_stride);
}

}  // namespace

void segment_sum(const SegmentRows& rows) {
  check_segments(rows);
  HWY_DYNAMIC_DISPATCH(scaled_sums)(rows, false);
}

void segment_mean(const SegmentRows& rows) {
  check_segments(rows);
  HWY_DYNAMIC_DISPATCH(scaled_sums)(rows, true);
}

}  // namespace trimtab
#endif  // HWY_ONCE
