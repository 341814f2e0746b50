#include "policies/language/ops/composed.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor wide(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

// log softmax of the rows' logits, in f32 at least.
at::Tensor log_distribution(const at::Tensor& hidden, const at::Tensor& weight, double temperature) {
  return at::log_softmax(wide(at::mm(hidden, weight.t())) / temperature, 1);
}

struct LinearLogprob : torch::autograd::Function<LinearLogprob> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens, double temperature,
                               int64_t chunk) {
    std::vector<at::Tensor> logp = {wide(at::zeros({0}, hidden.options()))}, entropy = logp;
    for (int64_t first = 0; first < hidden.size(0); first += chunk) {
      const int64_t n = std::min(chunk, hidden.size(0) - first);
      const at::Tensor all = log_distribution(hidden.narrow(0, first, n), weight, temperature);
      logp.push_back(all.gather(1, tokens.narrow(0, first, n).unsqueeze(1)).squeeze(1));
      entropy.push_back(-(all.exp() * all).sum(1));
    }
    ctx->save_for_backward({hidden, weight, tokens});
    ctx->saved_data["temperature"] = temperature, ctx->saved_data["chunk"] = chunk;
    return {at::cat(logp), at::cat(entropy)};
  }

  // d_logits = (d_logp (onehot(t) - p) - d_entropy p (log p + H)) / temperature (kernels/token_logprob)
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &tokens = saved[2];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const int64_t chunk = ctx->saved_data["chunk"].toInt();
    at::Tensor d_hidden = at::empty_like(hidden), d_weight = weight.requires_grad() ? wide(at::zeros_like(weight)) : at::Tensor();
    for (int64_t first = 0; first < hidden.size(0); first += chunk) {
      const int64_t n = std::min(chunk, hidden.size(0) - first);
      const at::Tensor x = hidden.narrow(0, first, n), all = log_distribution(x, weight, temperature), p = all.exp();
      at::Tensor d = at::zeros_like(p);
      if (grads[0].defined()) {
        const at::Tensor d_logp = grads[0].narrow(0, first, n).unsqueeze(1);
        d.sub_(d_logp * p).scatter_add_(1, tokens.narrow(0, first, n).unsqueeze(1), d_logp);
      }
      if (grads[1].defined()) d.sub_(grads[1].narrow(0, first, n).unsqueeze(1) * p * (all - (p * all).sum(1, true)));
      const at::Tensor d_logits = (d / temperature).to(hidden.scalar_type());
      d_hidden.narrow(0, first, n).copy_(at::mm(d_logits, weight));
      if (d_weight.defined()) d_weight.add_(at::mm(d_logits.t(), x));
    }
    return {d_hidden, d_weight.defined() ? d_weight.to(weight.scalar_type()) : d_weight, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool served_by_kernels(const at::Tensor& x) { return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble); }

at::Tensor composed_rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  const at::Tensor w = wide(x);
  return (w * at::rsqrt(w.square().mean(-1, true) + epsilon)).to(x.scalar_type()) * weight;
}

// Copies the weights into one matrix: a view over the first (rows.h) would send all of the gradient to it.
at::Tensor composed_norm_linear(const at::Tensor& x, const at::Tensor& norm_weight, double epsilon, const std::vector<at::Tensor>& weights,
                                const std::vector<at::Tensor>& biases) {
  const at::Tensor h = composed_rms_norm(x, norm_weight, epsilon), w = at::cat(weights).t();
  return biases.empty() ? at::mm(h, w) : at::addmm(at::cat(biases), h, w);
}

at::Tensor composed_norm_heads(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight, int64_t heads, int64_t kv_heads,
                               double epsilon) {
  const at::Tensor x = qkv.view({qkv.size(0), heads + 2 * kv_heads, -1});
  return at::cat({composed_rms_norm(x.narrow(1, 0, heads), q_weight, epsilon), composed_rms_norm(x.narrow(1, heads, kv_heads), k_weight, epsilon),
                  x.narrow(1, heads + kv_heads, kv_heads)}, 1).view(qkv.sizes());
}

at::Tensor composed_rotary(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine) {
  const std::vector<at::Tensor> halves = x.chunk(2, 2);
  const at::Tensor c = cosine.unsqueeze(1), s = sine.unsqueeze(1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, 2).to(x.scalar_type());
}

at::Tensor composed_swiglu(const at::Tensor& gate_up) {
  const std::vector<at::Tensor> halves = gate_up.chunk(2, 1);
  return at::silu(halves[0]) * halves[1];
}

std::tuple<at::Tensor, at::Tensor> composed_linear_logprob(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens,
                                                           const LinearLogprobOptions& options) {
  const variable_list out = LinearLogprob::apply(hidden, weight, tokens, options.temperature, std::max<int64_t>(1, options.chunk_rows));
  return {out[0], out[1]};
}

}  // namespace trimtab
