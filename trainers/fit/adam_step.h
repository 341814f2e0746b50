// The numbers of one Adam step, shared by all instruction sets of adam.cpp.
#pragma once

namespace trimtab {

struct AdamStep {
  float gradient_scale, beta1, beta2;
  float step;        // lr / (1 - beta1^t)
  float root_scale;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
  float decay;  // 1 - lr * weight_decay
};

}  // namespace trimtab
