// The gated unit in f32 and f64 against its formulas in double, far from zero too.
#include "kernels/swiglu/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class SwigluTest : public EveryTarget {};
TT_ON_EVERY_TARGET(SwigluTest);

template <class T>
void expect_near_definition(int64_t width, double tolerance, Draws& draws) {
  const int64_t rows = 3;
  std::vector<T> gate_up(rows * 2 * width), dy(rows * width), y(rows * width), d_gate_up(rows * 2 * width);
  for (T& v : gate_up) v = static_cast<T>(draws.normal() * (draws.below(5) == 0 ? 100 : 2));
  for (T& v : dy) v = static_cast<T>(draws.normal());
  swiglu(SwiGlu<T>{rows, width, gate_up.data(), y.data()});
  std::vector<T> again = dy;   // in place of the incoming gradient
  swiglu_gradient(SwiGluGradient<T>{rows, width, gate_up.data(), again.data(), d_gate_up.data(), again.data()});
  EXPECT_EQ(again, y);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < width; ++i) {
      const double g = gate_up[row * 2 * width + i], u = gate_up[row * 2 * width + width + i], s = 1 / (1 + std::exp(-g)), d = dy[row * width + i];
      const double relative = tolerance * (1 + std::abs(g * u * d) + std::abs(g * u) + std::abs(g * d));
      ASSERT_NEAR(y[row * width + i], g * s * u, relative);
      ASSERT_NEAR(d_gate_up[row * 2 * width + i], d * u * s * (1 + g * (1 - s)), relative);
      ASSERT_NEAR(d_gate_up[row * 2 * width + width + i], d * g * s, relative);
    }
}

TEST_P(SwigluTest, equals_its_formulas_forward_and_backward) {
  Draws draws(test_seed(), Stream::kTest, 33);
  for (const int64_t width : {1, 7, 16, 33, 100}) {
    expect_near_definition<double>(width, 1e-13, draws);
    expect_near_definition<float>(width, 1e-6, draws);
  }
}

}  // namespace
}  // namespace trimtab
