// Seam 6, fit: the value function's loss, with derivative in closed form.
//
//   mse:    L = 1/2 e^2            huber:  L = e^2 / 2 for |e| <= delta, delta (|e| - delta / 2) beyond e = v
//   - target clipped: L = max(L(v), L(v_old + clip(v - v_old, -range, range)))                    (range 0:
//   not clipped)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace trimtab {

struct ValueLossOptions {
  bool huber = false;
  double huber_delta = 10.0;
  double clip_range = 0;  // 0: off
  double coef = 1;
};

template <class T>
struct ValueTerm {
  T loss, derivative;
};
template <class T>
ValueTerm<T> value_term(T error, const ValueLossOptions& options) {
  const T delta = static_cast<T>(options.huber_delta);
  if (options.huber && std::abs(error) > delta)
    return {delta * (std::abs(error) - delta / 2), error > 0 ? delta : -delta};
  return {error * error / 2, error};
}

// Writes d(loss)/d(value); returns sum of weight x loss x coef. value_old may be null when clip_range is 0.
template <class T>
double value_loss(int64_t rows, const T* value, const T* value_old, const T* target, const T* weight,
                  const ValueLossOptions& options, T* d_value) {
  double sum = 0;
  const T coef = static_cast<T>(options.coef), range = static_cast<T>(options.clip_range);
  for (int64_t i = 0; i < rows; ++i) {
    if (weight[i] == 0) {
      d_value[i] = 0;
      continue;
    }
    ValueTerm<T> term = value_term(value[i] - target[i], options);
    if (options.clip_range > 0) {
      const T move = value[i] - value_old[i];
      const ValueTerm<T> other =
          value_term(value_old[i] + std::clamp(move, -range, range) - target[i], options);
      if (other.loss > term.loss) term = {other.loss, std::abs(move) < range ? other.derivative : T(0)};
    }
    sum += weight[i] * coef * term.loss;
    d_value[i] = weight[i] * coef * term.derivative;
  }
  return sum;
}

// 1 - Var(target - value) / Var(target): 1 is perfect, 0 is no better than a constant.
template <class T>
double explained_variance(int64_t rows, const T* value, const T* target) {
  double mean_t = 0, mean_e = 0, var_t = 0, var_e = 0;
  for (int64_t i = 0; i < rows; ++i) mean_t += target[i], mean_e += target[i] - value[i];
  mean_t /= rows;
  mean_e /= rows;
  for (int64_t i = 0; i < rows; ++i) {
    var_t += (target[i] - mean_t) * (target[i] - mean_t);
    var_e += (target[i] - value[i] - mean_e) * (target[i] - value[i] - mean_e);
  }
  return var_t > 0 ? 1 - var_e / var_t : 0;
}

}  // namespace trimtab
