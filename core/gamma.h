// Gamma-distributed numbers: gaps between arrivals of any burstiness.
#pragma once

#include <cmath>

#include "core/random.h"

namespace trimtab {

// Gamma of mean `shape` and scale 1 (Marsaglia and Tsang 2000); below shape 1 by a power of a uniform number.
inline double gamma_of(Draws& draws, double shape) {
  if (shape < 1) return gamma_of(draws, shape + 1) * std::pow(draws.uniform(), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = draws.normal(), v = std::pow(1 + c * x, 3);
    if (v > 0 && -draws.exponential() < x * x / 2 + d * (1 - v + std::log(v))) return d * v;
  }
}

}  // namespace trimtab
