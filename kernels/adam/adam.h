// Adam (Kingma and Ba 2015, algorithm 1) over one flat buffer in a single pass, with decoupled weight decay
// (Loshchilov and Hutter 2019) and gradient clipping folded in:
//
//   g = scale * gradient;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p = p - lr * weight_decay * p - lr * (m / (1 - b1^t)) / ( sqrt(v / (1 - b2^t)) + eps )
//
// Plain arrays of f32, no alignment asked for, no overlap. Element i of the result depends on element i of
// the inputs alone, so a buffer may be split anywhere. No allocation. Non-finite gradients go through as
// non-finite parameters: check first.
#pragma once

#include <cstdint>

namespace trimtab {

struct AdamStep {
  int64_t size = 0;
  float* parameters = nullptr;
  const float* gradient = nullptr;
  float* m = nullptr;  // first moment, zero before step 1
  float* v = nullptr;  // second moment, zero before step 1
  double lr = 3e-4, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;           // t, from 1
  double gradient_scale = 1;  // see clip_scale
};
void adam_step(const AdamStep& adam);

// Sum of squares in double, in a fixed order: NaN or infinity in `x` shows in the result.
double squared_norm(const float* x, int64_t size);

// What a gradient is multiplied with so that its Euclidean norm is at most `max_norm` (0: no limit).
double clip_scale(double squared_norm, double max_norm);

}  // namespace trimtab
