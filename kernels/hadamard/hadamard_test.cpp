// The transform against its matrix in float64: entry (i, j) is (-1) to the number of ones in i & j.
#include "kernels/hadamard/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

TEST(Hadamard, EqualsItsMatrixAndIsItsOwnInverse) {
  for (int64_t n = 1; n <= 512; n *= 2) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(n));
    const int64_t rows = 3, stride = n + 5;
    const std::vector<float> x = random_numbers(rows * stride, draws, 4);
    std::vector<float> y = x;
    hadamard(rows, n, y.data(), stride);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < stride; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += (std::popcount(static_cast<uint64_t>(i & j)) % 2 ? -1 : 1) * double{x[r * stride + i]};
        const double expected = j < n ? sum / std::sqrt(static_cast<double>(n)) : x[r * stride + j];   // nothing behind the row is touched
        ASSERT_NEAR(y[r * stride + j], expected, 1e-5 * std::sqrt(static_cast<double>(n)));
      }
    hadamard(rows, n, y.data(), stride);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(y[i], x[i], 2e-5);
  }
}

TEST(Hadamard, ExistsForPowersOfTwo) {
  EXPECT_TRUE(hadamard_exists(64) && hadamard_exists(1));
  EXPECT_FALSE(hadamard_exists(0) || hadamard_exists(80) || hadamard_exists(1024));
}

}  // namespace
}  // namespace trimtab
