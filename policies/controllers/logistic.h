// ln(1 + e^x) and 1 / (1 + e^-x), finite and exact to rounding for any x.
#pragma once

#include <algorithm>
#include <cmath>

namespace trimtab {

template <class T>
T softplus(T x) {
  return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}
template <class T>
T sigmoid(T x) {
  const T e = std::exp(-std::abs(x));
  return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

}  // namespace trimtab
