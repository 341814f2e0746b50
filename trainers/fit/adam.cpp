// The optimiser's state around the kernel of one step; see adam.h.
#include "trainers/fit/adam.h"

#include "kernels/adam/adam.h"

namespace trimtab {

void Adam::step(std::span<float> parameters, std::span<const float> gradient, double scale, double lr) {
  adam_step({.size = static_cast<int64_t>(parameters.size()),
             .parameters = parameters.data(),
             .gradient = gradient.data(),
             .m = m_.data(),
             .v = v_.data(),
             .lr = lr,
             .beta1 = options_.beta1,
             .beta2 = options_.beta2,
             .eps = options_.epsilon,
             .weight_decay = options_.weight_decay,
             .step = ++steps_,
             .gradient_scale = scale});
}

}  // namespace trimtab
