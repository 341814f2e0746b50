// Value loss, value normaliser, schedules and Adam against their definitions.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/random.h"
#include "trainers/fit/adam.h"
#include "trainers/fit/schedule.h"
#include "trainers/fit/value_loss.h"
#include "trainers/fit/value_normaliser.h"

namespace trimtab {
namespace {

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

TEST(ValueLoss, DerivativesMatchFiniteDifferences) {
  constexpr double kStep = 1e-6;
  Draws draws(test_seed(), Stream::kTest, 2);
  std::vector<double> value, old, target, weight, d(100), unused(100);
  for (int i = 0; i < 100; ++i) {
    old.push_back(draws.normal());
    value.push_back(old.back() + 0.5 * draws.normal());
    target.push_back(2 * draws.normal());
    weight.push_back(draws.uniform());
  }
  for (const bool huber : {false, true}) {
    for (const double range : {0.0, 0.3}) {
      const ValueLossOptions options{huber, 0.7, range, 0.5};
      value_loss<double>(100, value.data(), old.data(), target.data(), weight.data(), options, d.data());
      for (int i = 0; i < 100; ++i) {
        const auto at = [&](double v) {
          std::vector<double> moved = value;
          moved[i] = v;
          return value_loss<double>(100, moved.data(), old.data(), target.data(), weight.data(), options,
                                    unused.data());
        };
        EXPECT_NEAR(d[i], (at(value[i] + kStep) - at(value[i] - kStep)) / (2 * kStep), 1e-6) << "row " << i;
      }
    }
  }
}

TEST(ValueLoss, HuberIsQuadraticThenLinear) {
  const ValueLossOptions huber{true, 2, 0, 1};
  EXPECT_DOUBLE_EQ(value_term(1.0, huber).loss, 0.5);
  EXPECT_DOUBLE_EQ(value_term(-5.0, huber).loss, 2 * (5 - 1.0));
  EXPECT_DOUBLE_EQ(value_term(-5.0, huber).derivative, -2);
}

TEST(ExplainedVariance, OneForPerfectZeroForConstant) {
  const std::vector<double> target{1, 2, 4}, constant{7, 7, 7};
  EXPECT_DOUBLE_EQ(explained_variance<double>(3, target.data(), target.data()), 1);
  EXPECT_NEAR(explained_variance<double>(3, constant.data(), target.data()), 0, 1e-12);
}

TEST(ValueNormaliser, FirstUpdateIsUnbiasedAndInverseRestores) {
  ValueNormaliser n;
  EXPECT_EQ(n.normalised(3.0), 3.0);
  const std::vector<double> returns{10, 14};
  n.update(returns.data(), 2, 0.99);
  EXPECT_NEAR(n.mean(), 12, 1e-9);
  EXPECT_NEAR(n.scale(), 2, 1e-9);
  EXPECT_NEAR(n.restored(n.normalised(-3.5)), -3.5, 1e-12);
  ValueNormaliser copy;
  copy.set_state(n.state());
  EXPECT_EQ(copy.normalised(1.25), n.normalised(1.25));
}

TEST(Schedule, EndsAndMiddle) {
  EXPECT_DOUBLE_EQ(scheduled(Schedule::kConstant, 2, 0, 0, 0.7), 2);
  EXPECT_DOUBLE_EQ(scheduled(Schedule::kLinear, 2, 1, 0, 0.5), 1.5);
  EXPECT_DOUBLE_EQ(scheduled(Schedule::kLinear, 2, 1, 0, 9.0), 1);
  EXPECT_NEAR(scheduled(Schedule::kCosine, 2, 0, 0, 0.5), 1, 1e-12);
  EXPECT_DOUBLE_EQ(scheduled(Schedule::kConstant, 2, 0, 0.5, 0.25), 1);
  EXPECT_DOUBLE_EQ(scheduled(Schedule::kLinear, 2, 0, 0.5, 0.75), 1);
}

// Written out from the paper, in float64.
TEST(Adam, MatchesThePaperStepByStep) {
  constexpr int kSize = 37;  // whole vectors and a rest
  const AdamOptions options{0.9, 0.99, 1e-5, 0.1};
  Draws draws(test_seed(), Stream::kTest, 3);
  Adam adam(kSize, options);
  std::vector<float> parameters(kSize), gradient(kSize);
  for (float& p : parameters) p = draws.normal();
  std::vector<double> p(parameters.begin(), parameters.end()), m(kSize, 0), v(kSize, 0);
  for (int t = 1; t <= 10; ++t) {
    for (float& g : gradient) g = draws.normal();
    const double lr = 0.01 / t, scale = 0.5;
    adam.step(parameters, gradient, scale, lr);
    for (int i = 0; i < kSize; ++i) {
      const double g = scale * gradient[i];
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(options.beta1, t)),
                   v_hat = v[i] / (1 - std::pow(options.beta2, t));
      p[i] -= lr * (m_hat / (std::sqrt(v_hat) + options.epsilon) + options.weight_decay * p[i]);
      EXPECT_NEAR(parameters[i], p[i], 2e-6 * (1 + std::abs(p[i]))) << "step " << t << ", parameter " << i;
    }
  }
}

}  // namespace
}  // namespace trimtab
