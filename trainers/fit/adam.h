// Adam with decoupled weight decay (Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101)
// over one flat buffer: the moments between the steps, which kernels/adam makes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trimtab {

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-5, weight_decay = 0;
};

class Adam {
 public:
  Adam(int64_t size, const AdamOptions& options) : options_(options), m_(size), v_(size) {}
  // parameters -= lr * (m^ / (sqrt(v^) + epsilon) + weight_decay * parameters), the gradient scaled by
  // `scale` first.
  void step(std::span<float> parameters, std::span<const float> gradient, double scale, double lr);
  std::span<float> first_moment() { return m_; }
  std::span<float> second_moment() { return v_; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  void set_options(const AdamOptions& options) { options_ = options; }

 private:
  AdamOptions options_;
  std::vector<float> m_, v_;
  int64_t steps_ = 0;
};

}  // namespace trimtab
