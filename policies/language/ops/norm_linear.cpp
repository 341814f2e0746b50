#include "policies/language/ops/norm_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "kernels/rms_norm/rms_norm.h"
#include "policies/language/ops/composed.h"
#include "policies/language/ops/rows.h"

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor normed(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  at::Tensor y = at::empty(x.sizes(), x.options());
  const int64_t width = x.size(1);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm", [&] {
    for_row_blocks(x.size(0), [&](int64_t, int64_t first, int64_t rows) {
      rms_norm(RmsNorm<scalar_t>{rows, width, x.const_data_ptr<scalar_t>() + first * width, width, weight.const_data_ptr<scalar_t>(), epsilon,
                                 y.mutable_data_ptr<scalar_t>() + first * width, width});
    });
  });
  return y;
}

// {dx (over dy's memory unless `base` is given, which it then holds too), d_weight}: blocks of rows have a sum each for the weight.
std::pair<at::Tensor, at::Tensor> norm_gradient(const at::Tensor& x, const at::Tensor& weight, double epsilon, const at::Tensor& dy,
                                                const at::Tensor& base) {
  const int64_t width = x.size(1), rows_in_all = x.size(0);
  at::Tensor dx = at::empty(x.sizes(), x.options()), sums = at::zeros({num_row_blocks(rows_in_all), width}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm_gradient", [&] {
    for_row_blocks(rows_in_all, [&](int64_t block, int64_t first, int64_t rows) {
      const int64_t from = first * width;
      rms_norm_gradient(RmsNormGradient<scalar_t>{rows, width, x.const_data_ptr<scalar_t>() + from, width, weight.const_data_ptr<scalar_t>(), epsilon,
                                                  dy.const_data_ptr<scalar_t>() + from, width,
                                                  base.defined() ? base.const_data_ptr<scalar_t>() + from : nullptr, width,
                                                  dx.mutable_data_ptr<scalar_t>() + from, width,
                                                  sums.mutable_data_ptr<scalar_t>() + block * width});
    });
  });
  return {dx, sums.sum(0)};
}

// Autograd sees tensors among arguments, not in lists: so up to kMaps weights, and as many biases.
constexpr size_t kMaps = 3;
using Maybe = std::optional<at::Tensor>;

variable_list given(std::initializer_list<Maybe> tensors) {
  variable_list out;
  for (const Maybe& t : tensors)
    if (t) out.push_back(*t);
  return out;
}

struct NormLinear : torch::autograd::Function<NormLinear> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& norm_weight, double epsilon, const Maybe& w1,
                               const Maybe& w2, const Maybe& w3, const Maybe& b1, const Maybe& b2, const Maybe& b3) {
    const variable_list weights = given({w1, w2, w3}), biases = given({b1, b2, b3});
    const at::Tensor h = normed(x, norm_weight, epsilon), w = stacked(weights).t();
    variable_list saved = {x, norm_weight};
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["epsilon"] = epsilon;
    ctx->saved_data["biases"] = static_cast<int64_t>(biases.size());
    return {biases.empty() ? at::mm(h, w) : at::addmm(stacked(biases), h, w), x};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables(), weights(saved.begin() + 2, saved.end());
    const double epsilon = ctx->saved_data["epsilon"].toDouble();
    const at::Tensor &x = saved[0], &norm_weight = saved[1];
    const bool trains = std::any_of(weights.begin(), weights.end(), [](const at::Tensor& w) { return w.requires_grad(); });   // else frozen below an adapter
    const at::Tensor w = stacked(weights);
    const at::Tensor dy = grads[0].defined() ? grads[0].contiguous() : at::zeros({x.size(0), w.size(0)}, x.options());
    const at::Tensor dw = trains ? at::mm(dy.t(), normed(x, norm_weight, epsilon)) : at::Tensor();
    const auto [dx, d_norm] = norm_gradient(x, norm_weight, epsilon, at::mm(dy, w), grads[1].defined() ? grads[1].contiguous() : grads[1]);
    variable_list out = {dx, d_norm, at::Tensor()};
    const auto split = [&](const at::Tensor& whole) {
      int64_t first = 0;
      for (const at::Tensor& weight : weights) out.push_back(whole.defined() ? whole.narrow(0, first, weight.size(0)) : whole), first += weight.size(0);
      out.resize(out.size() + kMaps - weights.size());
    };
    split(dw);
    if (ctx->saved_data["biases"].toInt() > 0) split(dy.sum(0));
    out.resize(3 + 2 * kMaps);
    return out;
  }
};

struct RmsNormRows : torch::autograd::Function<RmsNormRows> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double epsilon) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["epsilon"] = epsilon;
    return normed(x, weight, epsilon);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto [dx, dw] = norm_gradient(saved[0], saved[1], ctx->saved_data["epsilon"].toDouble(), grads[0].contiguous(), {});
    return {dx, dw, at::Tensor()};
  }
};

struct NormHeads : torch::autograd::Function<NormHeads> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight, int64_t heads,
                            int64_t kv_heads, double epsilon) {
    at::Tensor out = qkv.clone();
    const int64_t size = q_weight.size(0), stride = qkv.size(1);
    AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "norm_heads", [&] {
      for_row_blocks(qkv.size(0), [&](int64_t, int64_t first, int64_t rows) {
        for (int64_t head = 0; head < heads + kv_heads; ++head) {
          const int64_t from = first * stride + head * size;
          rms_norm(RmsNorm<scalar_t>{rows, size, qkv.const_data_ptr<scalar_t>() + from, stride,
                                     (head < heads ? q_weight : k_weight).const_data_ptr<scalar_t>(), epsilon,
                                     out.mutable_data_ptr<scalar_t>() + from, stride});
        }
      });
    });
    ctx->save_for_backward({qkv, q_weight, k_weight});
    ctx->saved_data["heads"] = heads, ctx->saved_data["kv_heads"] = kv_heads, ctx->saved_data["epsilon"] = epsilon;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &q_weight = saved[1], &k_weight = saved[2], grad = grads[0].contiguous();
    const int64_t heads = ctx->saved_data["heads"].toInt(), kv_heads = ctx->saved_data["kv_heads"].toInt();
    const double epsilon = ctx->saved_data["epsilon"].toDouble();
    const int64_t size = q_weight.size(0), stride = qkv.size(1);
    at::Tensor out = grad.clone(), sums = at::zeros({num_row_blocks(qkv.size(0)), 2, size}, qkv.options());
    AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "norm_heads_gradient", [&] {
      for_row_blocks(qkv.size(0), [&](int64_t block, int64_t first, int64_t rows) {
        for (int64_t head = 0; head < heads + kv_heads; ++head) {
          const int64_t from = first * stride + head * size;
          const bool is_q = head < heads;
          rms_norm_gradient(RmsNormGradient<scalar_t>{rows, size, qkv.const_data_ptr<scalar_t>() + from, stride,
                                                      (is_q ? q_weight : k_weight).const_data_ptr<scalar_t>(), epsilon,
                                                      grad.const_data_ptr<scalar_t>() + from, stride, nullptr, 0,
                                                      out.mutable_data_ptr<scalar_t>() + from, stride,
                                                      sums.mutable_data_ptr<scalar_t>() + (2 * block + (is_q ? 0 : 1)) * size});
        }
      });
    });
    const at::Tensor sum = sums.sum(0);
    return {out, sum[0], sum[1], at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

std::pair<at::Tensor, at::Tensor> norm_linear(const at::Tensor& x, const at::Tensor& norm_weight, double epsilon,
                                              const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& biases) {
  TT_CHECK(biases.empty() || biases.size() == weights.size(), "{} biases for {} weights", biases.size(), weights.size());
  for (const at::Tensor& w : weights) TT_CHECK_EQ(w.size(1), x.size(1));
  TT_CHECK(!weights.empty() && weights.size() <= kMaps, "{} weights", weights.size());
  if (!served_by_kernels(x)) return {composed_norm_linear(x, norm_weight, epsilon, weights, biases), x};
  const auto at = [](const std::vector<at::Tensor>& list, size_t i) { return i < list.size() ? Maybe(list[i]) : std::nullopt; };
  const variable_list out = NormLinear::apply(x.contiguous(), norm_weight, epsilon, at(weights, 0), at(weights, 1), at(weights, 2), at(biases, 0),
                                              at(biases, 1), at(biases, 2));
  return {out[0], out[1]};
}

at::Tensor rms_norm_rows(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  TT_CHECK_EQ(x.size(1), weight.size(0));
  return served_by_kernels(x) ? RmsNormRows::apply(x.contiguous(), weight, epsilon) : composed_rms_norm(x, weight, epsilon);
}

at::Tensor norm_heads(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight, int64_t heads, int64_t kv_heads,
                      double epsilon) {
  TT_CHECK_EQ(qkv.size(1), (heads + 2 * kv_heads) * q_weight.size(0));
  if (!served_by_kernels(qkv)) return composed_norm_heads(qkv, q_weight, k_weight, heads, kv_heads, epsilon);
  return NormHeads::apply(qkv.contiguous(), q_weight, k_weight, heads, kv_heads, epsilon);
}

}  // namespace trimtab
