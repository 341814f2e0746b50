// log Gamma and its first two derivatives in double, for x > 0: the recurrence up to x >= 8, then Stirling's
// series (Abramowitz and Stegun 6.1.41, 6.3.18, 6.4.12). Relative error below 1e-12. std::lgamma writes a
// global and is slower.
#pragma once

#include <cmath>

namespace trimtab {

struct LogGamma {
  double value, first, second;  // log Gamma(x), digamma(x), trigamma(x)
};

inline LogGamma log_gamma(double x) {
  double product = 1, first = 0, second = 0;
  for (; x < 8; x += 1) {
    const double inverse = 1 / x;
    product *= x;
    first -= inverse;
    second += inverse * inverse;
  }
  const double r = 1 / x, s = r * r, log_x = std::log(x);
  constexpr double kHalfLog2Pi = 0.91893853320467274178;
  const double value =
      (x - 0.5) * log_x - x + kHalfLog2Pi - std::log(product) +
      r * (1.0 / 12 -
           s * (1.0 / 360 - s * (1.0 / 1260 - s * (1.0 / 1680 - s * (1.0 / 1188 - s * 691.0 / 360360)))));
  first += log_x - 0.5 * r -
           s * (1.0 / 12 -
                s * (1.0 / 120 - s * (1.0 / 252 - s * (1.0 / 240 - s * (1.0 / 132 - s * 691.0 / 32760)))));
  second +=
      r + 0.5 * s +
      r * s *
          (1.0 / 6 - s * (1.0 / 30 - s * (1.0 / 42 - s * (1.0 / 30 - s * (5.0 / 66 - s * 691.0 / 2730)))));
  return {value, first, second};
}

}  // namespace trimtab
