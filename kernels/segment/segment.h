// Sums and means over consecutive rows: segment g is rows offsets[g] .. offsets[g+1]-1 of a row-major f32
// array. Sums run over rows in ascending order, so a segment's result does not depend on the others. An empty
// segment gives zero. Strides are distances between rows in elements. Outputs must not overlap inputs.
// Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

struct SegmentRows {
  int64_t segments = 0, columns = 0;
  const int32_t* offsets = nullptr;  // [segments + 1], not decreasing
  const float* x = nullptr;          // [offsets[segments], columns]
  int64_t x_stride = 0;
  float* y = nullptr;  // [segments, columns], overwritten
  int64_t y_stride = 0;
};
void segment_sum(const SegmentRows& rows);
void segment_mean(const SegmentRows& rows);

}  // namespace trimtab
