// One step of CartPole (Barto, Sutton and Anderson 1983, explicit Euler, tau 0.02 s) and of Pendulum
// (semi-implicit Euler, dt 0.05 s), with the operations in Gymnasium's order. Sine and cosine are Highway's
// (at most 4 units in the last place).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "envs/classic/classic_simd.cpp"
#include <hwy/foreach_target.h>
// clang-format off
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

#include "envs/classic/classic_simd.h"

HWY_BEFORE_NAMESPACE();
namespace trimtab {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F64 = hn::ScalableTag<double>;
using F32 = hn::Rebind<float, F64>;
using V = hn::Vec<F64>;

V load_action(const float* p) { return hn::PromoteTo(F64(), hn::LoadU(F32(), p)); }

void CartPoleAdvance(CartPoleArrays s, const float* action, double* reward, double* ended, int64_t n) {
  const F64 d;
  const V gravity = hn::Set(d, 9.8), total_mass = hn::Set(d, 1.1), mass_pole = hn::Set(d, 0.1),
          length = hn::Set(d, 0.5), mass_length = hn::Set(d, 0.1 * 0.5), force = hn::Set(d, 10.0),
          tau = hn::Set(d, 0.02), four_thirds = hn::Set(d, 4.0 / 3.0), half = hn::Set(d, 0.5),
          one = hn::Set(d, 1.0);
  const V x_limit = hn::Set(d, 2.4), theta_limit = hn::Set(d, 12 * 2 * 3.14159265358979323846 / 360);
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    const V x = hn::LoadU(d, s.x + i), x_dot = hn::LoadU(d, s.x_dot + i), theta = hn::LoadU(d, s.theta + i),
            theta_dot = hn::LoadU(d, s.theta_dot + i);
    const V push = hn::IfThenElse(hn::Gt(load_action(action + i), half), force, hn::Neg(force));
    const V cosine = hn::Cos(d, theta), sine = hn::Sin(d, theta);
    const V temp = (push + mass_length * (theta_dot * theta_dot) * sine) / total_mass;
    const V theta_acc = (gravity * sine - cosine * temp) /
                        (length * (four_thirds - mass_pole * (cosine * cosine) / total_mass));
    const V x_acc = temp - mass_length * theta_acc * cosine / total_mass;
    const V new_x = x + tau * x_dot, new_theta = theta + tau * theta_dot;
    hn::StoreU(new_x, d, s.x + i);
    hn::StoreU(x_dot + tau * x_acc, d, s.x_dot + i);
    hn::StoreU(new_theta, d, s.theta + i);
    hn::StoreU(theta_dot + tau * theta_acc, d, s.theta_dot + i);
    hn::StoreU(one, d, reward + i);
    const auto out = hn::Or(hn::Gt(hn::Abs(new_x), x_limit), hn::Gt(hn::Abs(new_theta), theta_limit));
    hn::StoreU(hn::IfThenElseZero(out, one), d, ended + i);
  }
}

void PendulumAdvance(PendulumArrays s, const float* action, double* reward, double* ended, int64_t n) {
  const F64 d;
  const V max_torque = hn::Set(d, 2.0), max_speed = hn::Set(d, 8.0), dt = hn::Set(d, 0.05);
  const V pi = hn::Set(d, 3.14159265358979323846), two_pi = hn::Set(d, 2 * 3.14159265358979323846);
  const V swing = hn::Set(d, 3.0 * 10.0 / 2.0), push = hn::Set(d, 3.0);  // 3 g / (2 l), 3 / (m l^2)
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    const V theta = hn::LoadU(d, s.theta + i), theta_dot = hn::LoadU(d, s.theta_dot + i);
    const V u = hn::Min(hn::Max(load_action(action + i), hn::Neg(max_torque)), max_torque);
    const V turned = theta + pi, angle = turned - two_pi * hn::Floor(turned / two_pi) - pi;
    const V cost = angle * angle + hn::Set(d, 0.1) * (theta_dot * theta_dot) + hn::Set(d, 0.001) * (u * u);
    const V fast = theta_dot + (swing * hn::Sin(d, theta) + push * u) * dt;
    const V new_theta_dot = hn::Min(hn::Max(fast, hn::Neg(max_speed)), max_speed);
    hn::StoreU(theta + new_theta_dot * dt, d, s.theta + i);
    hn::StoreU(new_theta_dot, d, s.theta_dot + i);
    hn::StoreU(hn::Neg(cost), d, reward + i);
    hn::StoreU(hn::Zero(d), d, ended + i);
  }
}

void SineCosine(const double* angle, double* sine, double* cosine, int64_t n) {
  const F64 d;
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    const V x = hn::LoadU(d, angle + i);
    hn::StoreU(hn::Sin(d, x), d, sine + i);
    hn::StoreU(hn::Cos(d, x), d, cosine + i);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace trimtab
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trimtab {
HWY_EXPORT(CartPoleAdvance);
HWY_EXPORT(PendulumAdvance);
HWY_EXPORT(SineCosine);

void cartpole_advance(CartPoleArrays s, const float* action, double* reward, double* ended, int64_t n) {
  HWY_DYNAMIC_DISPATCH(CartPoleAdvance)(s, action, reward, ended, n);
}
void pendulum_advance(PendulumArrays s, const float* action, double* reward, double* ended, int64_t n) {
  HWY_DYNAMIC_DISPATCH(PendulumAdvance)(s, action, reward, ended, n);
}
void sine_cosine(const double* angle, double* sine, double* cosine, int64_t n) {
  HWY_DYNAMIC_DISPATCH(SineCosine)(angle, sine, cosine, n);
}
}  // namespace trimtab
#endif
