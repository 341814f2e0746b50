#include "kernels/segment/segment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/random.h"

namespace trimtab {
namespace {

TEST(Segment, SumsAndMeansMatchFloat64) {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  const uint64_t seed = text ? std::strtoull(text, nullptr, 10) : 20260101;
  for (uint32_t test = 0; test < 200; ++test) {
    Draws draws(seed, Stream::kTest, test);
    const int64_t segments = draws.below(9), columns = draws.below(131);
    const int64_t x_stride = columns + draws.below(4), y_stride = columns + draws.below(4);
    std::vector<int32_t> offsets = {0};
    for (int64_t g = 0; g < segments; ++g)
      offsets.push_back(offsets.back() + static_cast<int32_t>(draws.below(4) ? draws.below(20) : 0));
    std::vector<float> x(offsets.back() * x_stride), y(segments * y_stride, 7.0f), z = y;
    for (float& value : x) value = draws.normal() * (draws.below(5) ? 1.0f : draws.below(2) ? 1e20f : 1e-40f);
    segment_sum({segments, columns, offsets.data(), x.data(), x_stride, y.data(), y_stride});
    segment_mean({segments, columns, offsets.data(), x.data(), x_stride, z.data(), y_stride});
    for (int64_t g = 0; g < segments; ++g) {
      const int64_t rows = offsets[g + 1] - offsets[g];
      for (int64_t j = 0; j < y_stride; ++j) {
        if (j >= columns) {
          ASSERT_EQ(y[g * y_stride + j], 7.0f) << "written beyond the columns";
          continue;
        }
        double sum = 0, magnitude = 0;
        for (int64_t r = offsets[g]; r < offsets[g + 1]; ++r)
          sum += x[r * x_stride + j], magnitude += std::abs(x[r * x_stride + j]);
        const double bound = static_cast<double>(rows + 2) * 0x1p-24 * magnitude + 1e-44;
        ASSERT_NEAR(y[g * y_stride + j], sum, bound);
        ASSERT_NEAR(z[g * y_stride + j], rows ? sum / static_cast<double>(rows) : 0, bound);
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
