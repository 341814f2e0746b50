// Adam and the gradient norm on the device against float64.
#include "kernels/adam/adam_cuda.h"

#include "tests/gpu/device.h"

namespace trimtab::gpu {
namespace {

void check_steps(int64_t size) {
  Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(size));
  std::vector<float> p(size);
  for (float& x : p) x = draws.normal();
  std::vector<double> ep(p.begin(), p.end()), em(size), ev(size);
  DeviceArray<float> d_p(p), d_m(std::vector<float>(size, 0.0f)), d_v(std::vector<float>(size, 0.0f));
  AdamStep a;
  a.size = size, a.lr = 0.01, a.eps = 1e-5, a.weight_decay = 0.1, a.gradient_scale = 0.5;
  for (a.step = 1; a.step <= 20; ++a.step) {
    std::vector<float> g(size);
    const float scales[] = {0.0f, 1e-12f, 1e-5f, 1.0f, 1e6f};
    for (int64_t i = 0; i < size; ++i) g[i] = scales[i % 5] * draws.normal();
    DeviceArray<float> d_g(g);
    a.parameters = d_p.data(), a.gradient = d_g.data(), a.m = d_m.data(), a.v = d_v.data();
    require(adam_step_cuda(a, nullptr), "adam_step_cuda");
    require(cudaDeviceSynchronize(), "synchronise");
    const double c1 = 1 - std::pow(a.beta1, a.step), c2 = 1 - std::pow(a.beta2, a.step);
    for (int64_t i = 0; i < size; ++i) {
      const double s = a.gradient_scale * g[i];
      em[i] = a.beta1 * em[i] + (1 - a.beta1) * s;
      ev[i] = a.beta2 * ev[i] + (1 - a.beta2) * s * s;
      ep[i] += -a.lr * a.weight_decay * ep[i] - a.lr * (em[i] / c1) / (std::sqrt(ev[i] / c2) + a.eps);
    }
  }
  const auto result = d_p.host();
  for (int64_t i = 0; i < size; ++i)
    require_near(result[i], ep[i], 3e-6 * (1 + std::abs(ep[i])), "parameter", i);
}

void check_norm(int64_t size) {
  Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(size), 1);
  const auto x = random_numbers(size, draws);
  double expected = 0;
  for (const float value : x) expected += double{value} * value;
  DeviceArray<float> d_x(x);
  DeviceArray<double> d_result(std::vector<double>(1));
  require(squared_norm_cuda(d_x.data(), size, d_result.data(), nullptr), "squared_norm_cuda");
  require_near(d_result.host()[0], expected, 1e-12 * expected, "norm", size);
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  if (trimtab::gpu::no_device()) return trimtab::gpu::kSkipped;
  for (const int64_t size : {1, 2, 33, 256, 9155})
    trimtab::gpu::check_steps(size), trimtab::gpu::check_norm(size);
  std::puts("10 cases passed");
  return 0;
}
