// Estimators of KL(sampling || present) from samples of the sampling policy, d = logp - logp_old (Schulman, "Approximating KL
// divergence", 2020): k1 = -d (unbiased, noisy), k2 = d^2 / 2 (biased), k3 = exp(d) - d - 1 (unbiased, non-negative).
#pragma once

#include <cmath>

namespace trimtab {

template <class T>
T kl_k1(T d) { return -d; }
template <class T>
T kl_k2(T d) { return d * d / 2; }
template <class T>
T kl_k3(T d) { return std::expm1(d) - d; }

}  // namespace trimtab
