// RMSNorm against float64.
#include "kernels/rms_norm/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // as in the kernel
#include "hwy/highway.h"

namespace trimtab {
namespace {

// Every instruction set that this machine has.
class RmsNormTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { choose(GetParam()); }
  void TearDown() override { choose(0); }
  static void choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};
INSTANTIATE_TEST_SUITE_P(On, RmsNormTest, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

std::vector<float> numbers(int64_t n, Draws& draws, float scale = 1) {
  std::vector<float> x(n);
  for (float& value : x) value = scale * draws.normal();
  return x;
}

TEST_P(RmsNormTest, ForwardEqualsFloat64) {
  for (uint32_t round = 0; round < 200; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const int64_t rows = draws.below(5), columns = 1 + draws.below(200), stride = columns + draws.below(4);
    const float scales[] = {1, 0, 1e-12f, 1e12f};
    std::vector<float> x = numbers(rows * stride, draws, scales[draws.below(4)]), y(x.size());
    const std::vector<float> weight = numbers(columns, draws);
    rms_norm(RmsNorm<float>{rows, columns, x.data(), stride, weight.data(), 1e-6, y.data(), stride});
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < columns; ++c) sum += double{x[r * stride + c]} * x[r * stride + c];
      for (int64_t c = 0; c < columns; ++c) {
        const double expected = x[r * stride + c] / std::sqrt(sum / static_cast<double>(columns) + 1e-6) * weight[c];
        ASSERT_NEAR(y[r * stride + c], expected, 1e-6 * std::abs(expected) + 1e-30);
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
