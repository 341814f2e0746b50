#include "kernels/adam/adam.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "core/random.h"

namespace trimtab {
namespace {

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

// The definition, in float64.
struct Reference {
  std::vector<double> p, m, v;
  void step(const std::vector<float>& gradient, const AdamStep& a) {
    const double c1 = 1 - std::pow(a.beta1, a.step), c2 = 1 - std::pow(a.beta2, a.step);
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = a.gradient_scale * gradient[i];
      m[i] = a.beta1 * m[i] + (1 - a.beta1) * g;
      v[i] = a.beta2 * v[i] + (1 - a.beta2) * g * g;
      p[i] += -a.lr * a.weight_decay * p[i] - a.lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + a.eps);
    }
  }
};

TEST(Adam, TwentyStepsMatchFloat64) {
  for (const int64_t size : {1, 2, 7, 15, 16, 17, 33, 130, 1000}) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(size));
    std::vector<float> p(size), g(size), m(size), v(size);
    for (float& x : p) x = draws.normal();
    Reference reference{{p.begin(), p.end()}, std::vector<double>(size), std::vector<double>(size)};
    // Each element has gradients of one size: none, tiny, ordinary or big.
    const float scales[] = {0.0f, 1e-12f, 1e-5f, 1.0f, 1e6f};
    for (int64_t t = 1; t <= 20; ++t) {
      for (int64_t i = 0; i < size; ++i) g[i] = scales[i % 5] * draws.normal();
      AdamStep a = {.size = size, .parameters = p.data(), .gradient = g.data(), .m = m.data(), .v = v.data()};
      a.lr = 0.01, a.beta1 = 0.9, a.beta2 = 0.999, a.eps = size % 2 ? 1e-8 : 1e-5,
      a.weight_decay = size % 3 ? 0 : 0.1;
      a.step = t, a.gradient_scale = t % 4 ? 1 : 0.3;
      adam_step(a);
      reference.step(g, a);
    }
    for (int64_t i = 0; i < size; ++i)
      ASSERT_NEAR(p[i], reference.p[i], 3e-6 * (1 + std::abs(reference.p[i]))) << i;
  }
}

TEST(Adam, ABufferMayBeSplitAnywhere) {
  const int64_t size = 97;
  Draws draws(test_seed(), Stream::kTest, 1);
  std::vector<float> p(size), g(size), m(size), v(size);
  for (auto* x : {&p, &g})
    for (float& value : *x) value = draws.normal();
  auto p2 = p, m2 = m, v2 = v;
  adam_step({.size = size, .parameters = p.data(), .gradient = g.data(), .m = m.data(), .v = v.data()});
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 5}, {5, 60}, {65, 32}})
    adam_step({.size = count,
               .parameters = p2.data() + first,
               .gradient = g.data() + first,
               .m = m2.data() + first,
               .v = v2.data() + first});
  EXPECT_EQ(p, p2);
  EXPECT_EQ(v, v2);
}

TEST(Adam, NormAndClipScale) {
  Draws draws(test_seed(), Stream::kTest, 2);
  for (const int64_t size : {0, 1, 31, 32, 33, 1000}) {
    std::vector<float> x(size);
    double expected = 0;
    for (float& value : x)
      value = draws.normal() * (draws.below(2) ? 1.0f : 1e20f), expected += double{value} * value;
    EXPECT_NEAR(squared_norm(x.data(), size), expected, 1e-12 * expected);
    if (size == 0) continue;
    x[size / 2] = NAN;
    EXPECT_TRUE(std::isnan(squared_norm(x.data(), size)));
    x[size / 2] = std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isinf(squared_norm(x.data(), size)));
  }
  EXPECT_EQ(clip_scale(4.0, 3.0), 1);
  EXPECT_EQ(clip_scale(16.0, 1.0), 0.25);
  EXPECT_EQ(clip_scale(16.0, 0.0), 1);
}

}  // namespace
}  // namespace trimtab
