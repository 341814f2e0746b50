// Vectorised Adam step and gradient norm, compiled per instruction set and chosen at run time; see adam.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "trainers/fit/adam.cpp"
#include <hwy/foreach_target.h>
// clang-format off
#include <hwy/highway.h>
// clang-format on

#include <cmath>

#include "trainers/fit/adam.h"
#include "trainers/fit/adam_step.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

void AdamUpdate(const AdamStep& s, float* parameters, const float* gradient, float* m, float* v,
                int64_t size) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, s.gradient_scale), b1 = hn::Set(d, s.beta1), b2 = hn::Set(d, s.beta2),
             c1 = hn::Set(d, 1 - s.beta1), c2 = hn::Set(d, 1 - s.beta2), step = hn::Set(d, s.step),
             root = hn::Set(d, s.root_scale), epsilon = hn::Set(d, s.epsilon), decay = hn::Set(d, s.decay);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const auto g = hn::Mul(hn::LoadU(d, gradient + i), scale);
    const auto new_m = hn::MulAdd(b1, hn::LoadU(d, m + i), hn::Mul(c1, g));
    const auto new_v = hn::MulAdd(b2, hn::LoadU(d, v + i), hn::Mul(c2, hn::Mul(g, g)));
    const auto p = hn::LoadU(d, parameters + i);
    const auto denominator = hn::MulAdd(hn::Sqrt(new_v), root, epsilon);
    hn::StoreU(new_m, d, m + i);
    hn::StoreU(new_v, d, v + i);
    hn::StoreU(hn::Sub(hn::Mul(p, decay), hn::Div(hn::Mul(step, new_m), denominator)), d, parameters + i);
  }
  for (; i < size; ++i) {
    const float g = gradient[i] * s.gradient_scale;
    m[i] = s.beta1 * m[i] + (1 - s.beta1) * g;
    v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
    parameters[i] = parameters[i] * s.decay - s.step * m[i] / (std::sqrt(v[i]) * s.root_scale + s.epsilon);
  }
}

double SumOfSquares(const float* values, int64_t size) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto a = hn::Zero(d), b = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    const auto x = hn::PromoteTo(d, hn::LoadU(half, values + i)),
               y = hn::PromoteTo(d, hn::LoadU(half, values + i + lanes));
    a = hn::MulAdd(x, x, a);
    b = hn::MulAdd(y, y, b);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(a, b)));
  for (; i < size; ++i) sum += static_cast<double>(values[i]) * values[i];
  return sum;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
HWY_EXPORT(AdamUpdate);
HWY_EXPORT(SumOfSquares);

void Adam::step(std::span<float> parameters, std::span<const float> gradient, double scale, double lr) {
  ++steps_;
  const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(steps_));
  const double correction2 = 1 - std::pow(options_.beta2, static_cast<double>(steps_));
  const AdamStep s = {.gradient_scale = static_cast<float>(scale),
                      .beta1 = static_cast<float>(options_.beta1),
                      .beta2 = static_cast<float>(options_.beta2),
                      .step = static_cast<float>(lr / correction1),
                      .root_scale = static_cast<float>(1 / std::sqrt(correction2)),
                      .epsilon = static_cast<float>(options_.epsilon),
                      .decay = static_cast<float>(1 - lr * options_.weight_decay)};
  HWY_DYNAMIC_DISPATCH(AdamUpdate)
  (s, parameters.data(), gradient.data(), m_.data(), v_.data(), static_cast<int64_t>(parameters.size()));
}

double sum_of_squares(std::span<const float> values) {
  return HWY_DYNAMIC_DISPATCH(SumOfSquares)(values.data(), static_cast<int64_t>(values.size()));
}
}  // namespace trimtab
#endif
