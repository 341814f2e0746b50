// Packed linear layers against float64 within the bound of an f32 sum, and rows and panels that do not know of each other.
#include "kernels/packed_linear/packed_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class PackedLinearTest : public EveryTarget {};
TT_ON_EVERY_TARGET(PackedLinearTest);

struct Case {
  int64_t rows, in, out, panels;
  std::vector<float> x, weight, bias, packed, packed_bias;   // weight [out, in]
};

Case random_case(Draws& draws, int64_t block = 0, int64_t padded = 0) {
  Case c;
  const int64_t blocks = block == 0 ? 1 : 1 + draws.below(4);
  if (block == 0) block = padded = draws.below(90);
  c.rows = draws.below(40), c.in = blocks * padded, c.out = 1 + draws.below(100), c.panels = packed_panels(c.out);
  c.x = random_numbers(c.rows * c.in, draws, 3), c.weight = random_numbers(c.out * blocks * block, draws), c.bias = random_numbers(c.out, draws);
  c.packed.resize(c.panels * kPackedPanel * c.in), c.packed_bias = c.bias;
  c.packed_bias.resize(c.panels * kPackedPanel);
  std::vector<const float*> rows(c.panels * kPackedPanel, nullptr);
  for (int64_t o = 0; o < c.out; ++o) rows[o] = c.weight.data() + o * blocks * block;
  for (int64_t p = 0; p < c.panels; ++p) pack_panel(rows.data() + p * kPackedPanel, {blocks, block, padded}, c.packed.data() + p * kPackedPanel * c.in);
  return c;
}

TEST_P(PackedLinearTest, EqualsFloat64WithinRounding) {
  for (uint32_t round = 0; round < 150; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const Case c = random_case(draws);
    const bool biased = draws.below(2) == 0, adds = draws.below(2) == 0;
    const int64_t stride = c.panels * kPackedPanel + 5;
    std::vector<float> y = random_numbers(c.rows * stride, draws);
    const std::vector<float> before = y;
    packed_linear({c.rows, c.in, c.x.data(), c.in, c.packed.data(), biased ? c.packed_bias.data() : nullptr, 0, c.panels,
                   adds ? PackedFinish::kAdd : PackedFinish::kStore, y.data(), stride});
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t o = 0; o < stride; ++o) {
        double sum = biased && o < c.out ? c.bias[o] : 0, size = std::abs(sum);
        for (int64_t k = 0; o < c.out && k < c.in; ++k) {
          const double term = double{c.x[r * c.in + k]} * c.weight[o * c.in + k];
          sum += term, size += std::abs(term);
        }
        if (adds || o >= c.panels * kPackedPanel) sum += before[r * stride + o], size += std::abs(before[r * stride + o]);
        ASSERT_NEAR(y[r * stride + o], sum, (2 * static_cast<double>(c.in) + 6) * 0x1p-24 * size) << "round " << round;
      }
    }
  }
}

TEST_P(PackedLinearTest, PaddedBlocksOfInputsCountNothing) {
  Draws draws(test_seed(), Stream::kTest, 1000);
  const Case c = random_case(draws, 6, 16);
  for (int64_t k = 0; k < c.in; ++k)
    for (int64_t o = 0; o < c.panels * kPackedPanel; ++o) {
      const bool there = k % 16 < 6 && o < c.out;
      const float expected = there ? c.weight[o * (c.in / 16 * 6) + k / 16 * 6 + k % 16] : 0;
      ASSERT_EQ(c.packed[(o / kPackedPanel * c.in + k) * kPackedPanel + o % kPackedPanel], expected);
    }
}

TEST_P(PackedLinearTest, RowsAndPanelsDoNotKnowOfEachOther) {
  for (uint32_t round = 0; round < 30; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 1);
    const Case c = random_case(draws);
    const int64_t stride = c.panels * kPackedPanel;
    std::vector<float> together(c.rows * stride), apart(c.rows * stride);
    packed_linear({c.rows, c.in, c.x.data(), c.in, c.packed.data(), nullptr, 0, c.panels, PackedFinish::kStore, together.data(), stride});
    for (int64_t r = 0; r < c.rows; ++r)
      for (int64_t p = 0; p < c.panels; ++p)
        packed_linear({1, c.in, c.x.data() + r * c.in, c.in, c.packed.data(), nullptr, p, p + 1, PackedFinish::kStore, apart.data() + r * stride, stride});
    ASSERT_EQ(together, apart);
  }
}

TEST_P(PackedLinearTest, SwigluMultipliesTheHalvesOfAPanel) {
  Draws draws(test_seed(), Stream::kTest, 2000);
  const int64_t rows = 9, in = 1, panels = 3;
  const std::vector<float> x(rows, 1.0f), nothing(panels * kPackedPanel, 0.0f);
  std::vector<float> bias = random_numbers(panels * kPackedPanel, draws, 8), y(rows * panels * 16);
  bias[0] = -150, bias[1] = 150, bias[2] = 0, bias[3] = -3e38f, bias[4] = NAN;
  packed_linear({rows, in, x.data(), in, nothing.data(), bias.data(), 0, panels, PackedFinish::kSiluProduct, y.data(), panels * 16});
  for (int64_t i = 0; i < panels * 16; ++i) {
    const double gate = bias[i / 16 * 32 + i % 16], value = bias[i / 16 * 32 + 16 + i % 16], expected = gate / (1 + std::exp(-gate)) * value;
    if (std::isnan(gate)) ASSERT_TRUE(std::isnan(y[i]));
    else ASSERT_NEAR(y[i], expected, 3e-6 * std::abs(expected) + (i == 3 ? 1e2 : 1e-30)) << gate;
    ASSERT_TRUE(y[i] == y[(rows - 1) * panels * 16 + i] || std::isnan(y[i]));
  }
}

}  // namespace
}  // namespace trimtab
