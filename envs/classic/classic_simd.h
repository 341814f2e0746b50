// The vectorised steps of classic control (classic_simd.cpp), compiled once per instruction set and chosen at
// run time. Arrays hold `n` float64 values, n a multiple of 8.
#pragma once

#include <cstdint>

namespace trimtab {

struct CartPoleArrays {
  double *x, *x_dot, *theta, *theta_dot;
};
struct PendulumArrays {
  double *theta, *theta_dot;
};

// action > 0.5 pushes right. reward is 1 for every step, the last one included; ended is 1 where the pole or
// cart left the allowed range.
void cartpole_advance(CartPoleArrays s, const float* action, double* reward, double* ended, int64_t n);
// action: torque, clipped to [-2, 2]. Never ends.
void pendulum_advance(PendulumArrays s, const float* action, double* reward, double* ended, int64_t n);
void sine_cosine(const double* angle, double* sine, double* cosine, int64_t n);

}  // namespace trimtab
