// The rotation in f32 and f64 against its formula, and back.
#include "kernels/rotary/rotary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class RotaryTest : public EveryTarget {};
TT_ON_EVERY_TARGET(RotaryTest);

template <class T>
void expect_turned(int64_t half, double tolerance, Draws& draws) {
  const int64_t rows = 4, heads = 3, stride = heads * 2 * half + 5;
  std::vector<T> x(rows * stride), cosine(rows * half), sine(rows * half);
  for (T& v : x) v = static_cast<T>(draws.normal());
  for (int64_t i = 0; i < rows * half; ++i) {
    const double angle = 3 * draws.uniform();
    cosine[i] = static_cast<T>(std::cos(angle)), sine[i] = static_cast<T>(std::sin(angle));
  }
  const std::vector<T> before = x;
  rotary(Rotary<T>{rows, heads, 2 * half, x.data(), stride, cosine.data(), sine.data(), T{1}});
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < half; ++i) {
        const int64_t low = row * stride + head * 2 * half + i, high = low + half;
        const double a = before[low], b = before[high], c = cosine[row * half + i], s = sine[row * half + i];
        ASSERT_NEAR(x[low], a * c - b * s, tolerance);
        ASSERT_NEAR(x[high], b * c + a * s, tolerance);
      }
  rotary(Rotary<T>{rows, heads, 2 * half, x.data(), stride, cosine.data(), sine.data(), T{-1}});
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], before[i], tolerance * 4);
}

TEST_P(RotaryTest, turns_pairs_and_back) {
  Draws draws(test_seed(), Stream::kTest, 32);
  for (const int64_t half : {1, 4, 7, 16, 19, 32}) {
    expect_turned<double>(half, 1e-14, draws);
    expect_turned<float>(half, 1e-6, draws);
  }
}

}  // namespace
}  // namespace trimtab
