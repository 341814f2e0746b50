#include "policies/language/ops/swiglu_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/swiglu/swiglu.h"
#include "policies/language/ops/composed.h"
#include "policies/language/ops/rows.h"

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor gated(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  at::Tensor y = at::empty({gate_up.size(0), width}, gate_up.options());
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "swiglu", [&] {
    for_row_blocks(y.size(0), [&](int64_t, int64_t first, int64_t rows) {
      swiglu(SwiGlu<scalar_t>{rows, width, gate_up.const_data_ptr<scalar_t>() + first * 2 * width, y.mutable_data_ptr<scalar_t>() + first * width});
    });
  });
  return y;
}

// The gradient of [gate | up]; `dy` becomes the unit's output.
at::Tensor gated_gradient(const at::Tensor& gate_up, at::Tensor& dy) {
  const int64_t width = dy.size(1);
  at::Tensor out = at::empty_like(gate_up);
  AT_DISPATCH_FLOATING_TYPES(dy.scalar_type(), "swiglu_gradient", [&] {
    for_row_blocks(dy.size(0), [&](int64_t, int64_t first, int64_t rows) {
      scalar_t* d = dy.mutable_data_ptr<scalar_t>() + first * width;
      swiglu_gradient(SwiGluGradient<scalar_t>{rows, width, gate_up.const_data_ptr<scalar_t>() + first * 2 * width, d,
                                               out.mutable_data_ptr<scalar_t>() + first * 2 * width, d});
    });
  });
  return out;
}

struct SwiGluLinear : torch::autograd::Function<SwiGluLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up, const at::Tensor& weight, const at::Tensor& residual) {
    ctx->save_for_backward({gate_up, weight});
    return at::addmm(residual, gated(gate_up), weight.t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor unit = at::mm(grad, saved[1]);
    const at::Tensor d_gate_up = gated_gradient(saved[0], unit);
    return {d_gate_up, saved[1].requires_grad() ? at::mm(grad.t(), unit) : at::Tensor(), grad};   // frozen below an adapter
  }
};

}  // namespace

at::Tensor swiglu_linear(const at::Tensor& gate_up, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& residual) {
  TT_CHECK_EQ(gate_up.size(1), 2 * weight.size(1));
  const at::Tensor out = served_by_kernels(gate_up) ? SwiGluLinear::apply(gate_up.contiguous(), weight, residual)
                                                    : at::addmm(residual, composed_swiglu(gate_up), weight.t());
  return bias.defined() ? out + bias : out;
}

}  // namespace trimtab
