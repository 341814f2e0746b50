// Dense kernels on the device against float64.
#include "kernels/dense/dense_cuda.h"

#include <algorithm>

#include "tests/gpu/device.h"

namespace trimtab::gpu {
namespace {

struct Sum {
  double value = 0, magnitude = 0;
  void add(double x) { value += x, magnitude += std::abs(x); }
  double bound(int64_t terms) const { return (2.0 * terms + 4) * 0x1p-24 * magnitude + 1e-37; }
};

double activated(double x, Activation a) {
  return a == Activation::kTanh ? std::tanh(x) : a == Activation::kRelu ? std::max(x, 0.0) : x;
}

void check_case(uint32_t test) {
  Draws draws(test_seed(), Stream::kTest, test);
  const int64_t rows = 1 + draws.below(200), in = 1 + draws.below(130), out = 1 + draws.below(130),
                groups = 1 + draws.below(7);
  const int64_t ldx = in + draws.below(4), ldo = out + draws.below(4);
  const Activation activation = static_cast<Activation>(draws.below(3));
  const auto x = random_numbers(rows * ldx, draws), w = random_numbers(in * out, draws),
             base = random_numbers(groups * out, draws);
  const auto dy = random_numbers(rows * ldo, draws), dw0 = random_numbers(in * out, draws),
             db0 = random_numbers(out, draws);
  std::vector<int32_t> base_row(rows);
  for (int32_t& r : base_row) r = static_cast<int32_t>(draws.below(static_cast<uint32_t>(groups)));
  std::vector<float> gate(rows * ldx);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = std::tanh(x[i]);

  DeviceArray<float> d_x(x), d_w(w), d_base(base), d_dy(dy), d_dw(dw0), d_db(db0), d_gate(gate);
  DeviceArray<float> d_y(std::vector<float>(rows * ldo, 7.0f)), d_wt(std::vector<float>(in * out)),
      d_dx(std::vector<float>(rows * ldx));
  DeviceArray<int32_t> d_row(base_row);
  const cudaStream_t stream = nullptr;
  require(dense_forward_cuda({rows,
                              in,
                              out,
                              d_x.data(),
                              ldx,
                              d_w.data(),
                              out,
                              {d_base.data(), out, d_row.data()},
                              activation,
                              d_y.data(),
                              ldo},
                             stream),
          "dense_forward_cuda");
  require(dense_transpose_cuda(in, out, d_w.data(), out, d_wt.data(), in, stream), "dense_transpose_cuda");
  require(dense_input_gradient_cuda({rows,
                                     in,
                                     out,
                                     d_dy.data(),
                                     ldo,
                                     d_wt.data(),
                                     in,
                                     {},
                                     activation,
                                     d_gate.data(),
                                     ldx,
                                     d_dx.data(),
                                     ldx},
                                    stream),
          "dense_input_gradient_cuda");
  require(dense_weight_gradient_cuda({rows, in, out, d_x.data(), ldx, d_dy.data(), ldo, d_dw.data(), out},
                                     stream),
          "dense_weight_gradient_cuda");
  require(dense_column_sums_cuda(rows, out, d_dy.data(), ldo, d_db.data(), stream), "dense_column_sums_cuda");
  require(cudaDeviceSynchronize(), "synchronise");

  const auto y = d_y.host(), dx = d_dx.host(), dw = d_dw.host(), db = d_db.host();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < ldo; ++j) {
      if (j >= out) {
        require_near(y[r * ldo + j], 7.0, 0, "beyond y", r);
        continue;
      }
      Sum sum;
      sum.add(base[base_row[r] * out + j]);
      for (int64_t k = 0; k < in; ++k) sum.add(double{x[r * ldx + k]} * w[k * out + j]);
      require_near(y[r * ldo + j], activated(sum.value, activation),
                   sum.bound(in) + (activation == Activation::kTanh ? 1e-6 : 0), "y", r * out + j);
    }
    for (int64_t k = 0; k < in; ++k) {
      Sum sum;
      for (int64_t j = 0; j < out; ++j) sum.add(double{dy[r * ldo + j]} * w[k * out + j]);
      const double g = gate[r * ldx + k];
      const double slope = activation == Activation::kTanh   ? 1 - g * g
                           : activation == Activation::kRelu ? (g > 0 ? 1 : 0)
                                                             : 1;
      require_near(dx[r * ldx + k], slope * sum.value, sum.bound(out) + 0x1p-23 * sum.magnitude, "dx",
                   r * in + k);
    }
  }
  for (int64_t j = 0; j < out; ++j) {
    Sum bias;
    bias.add(db0[j]);
    for (int64_t r = 0; r < rows; ++r) bias.add(dy[r * ldo + j]);
    require_near(db[j], bias.value, bias.bound(rows), "db", j);
    for (int64_t k = 0; k < in; ++k) {
      Sum sum;
      sum.add(dw0[k * out + j]);
      for (int64_t r = 0; r < rows; ++r) sum.add(double{x[r * ldx + k]} * dy[r * ldo + j]);
      require_near(dw[k * out + j], sum.value, sum.bound(rows), "dw", k * out + j);
    }
  }
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  if (trimtab::gpu::no_device()) return trimtab::gpu::kSkipped;
  for (uint32_t test = 0; test < 100; ++test) trimtab::gpu::check_case(test);
  std::puts("100 cases passed");
  return 0;
}
