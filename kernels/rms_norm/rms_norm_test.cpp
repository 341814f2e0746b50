// The norm in f32 and f64 against its formulas in double, at widths that are no whole vectors and on rows further apart than long.
#include "kernels/rms_norm/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class RmsNormTest : public EveryTarget {};
TT_ON_EVERY_TARGET(RmsNormTest);

template <class T>
void expect_near_definition(int64_t rows, int64_t width, double tolerance, Draws& draws) {
  const int64_t stride = width + 3;
  const auto x = random_numbers<T>(rows * stride, draws), weight = random_numbers<T>(width, draws), dy = random_numbers<T>(rows * stride, draws), base = random_numbers<T>(rows * stride, draws);
  std::vector<T> y(rows * stride, 7), dx(rows * stride, 7), d_weight(width, 1);
  rms_norm(RmsNorm<T>{rows, width, x.data(), stride, weight.data(), 1e-5, y.data(), stride});
  rms_norm_gradient(RmsNormGradient<T>{rows, width, x.data(), stride, weight.data(), 1e-5, dy.data(), stride, base.data(), stride, dx.data(), stride,
                                       d_weight.data()});
  std::vector<double> expected(width, 1.0);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * stride;
    double squares = 0, mean = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[at + i]) * static_cast<double>(x[at + i]);
    const double r = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
    for (int64_t i = 0; i < width; ++i) mean += static_cast<double>(weight[i]) * dy[at + i] * x[at + i] * r / static_cast<double>(width);
    for (int64_t i = 0; i < width; ++i) {
      ASSERT_NEAR(y[at + i], static_cast<double>(weight[i]) * x[at + i] * r, tolerance);
      ASSERT_NEAR(dx[at + i], r * (static_cast<double>(weight[i]) * dy[at + i] - x[at + i] * r * mean) + base[at + i], tolerance * 10);
      expected[i] += static_cast<double>(dy[at + i]) * x[at + i] * r;
    }
    for (int64_t i = width; i < stride; ++i) ASSERT_TRUE(y[at + i] == 7 && dx[at + i] == 7);
  }
  for (int64_t i = 0; i < width; ++i) ASSERT_NEAR(d_weight[i], expected[i], tolerance * 100);
}

TEST_P(RmsNormTest, equals_its_formulas_forward_and_backward) {
  Draws draws(test_seed(), Stream::kTest, 31);
  for (const int64_t width : {1, 3, 8, 15, 16, 17, 64, 96, 130}) {
    expect_near_definition<double>(5, width, 1e-12, draws);
    expect_near_definition<float>(5, width, 1e-5, draws);
  }
}

}  // namespace
}  // namespace trimtab
