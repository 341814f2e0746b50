#include "policies/language/ops/linear_logprob.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LinearLogprob : torch::autograd::Function<LinearLogprob> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens,
                               double temperature, int64_t chunk) {
    const int64_t rows = hidden.size(0);
    at::Tensor logp = at::empty({rows}, hidden.options()), entropy = at::empty_like(logp), lse = at::empty_like(logp);
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t n = std::min(chunk, rows - first);
      const at::Tensor logits = at::matmul(hidden.narrow(0, first, n), weight.t()).div_(temperature);
      const at::Tensor total = logits.logsumexp(-1);
      lse.narrow(0, first, n).copy_(total);
      logp.narrow(0, first, n).copy_(logits.gather(1, tokens.narrow(0, first, n).unsqueeze(1)).squeeze(1) - total);
      const at::Tensor p = (logits - total.unsqueeze(1)).exp_();
      entropy.narrow(0, first, n).copy_(total - (p * logits).sum(-1));   // H = lse - sum p z
    }
    ctx->save_for_backward({hidden, weight, tokens, lse, entropy});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["chunk"] = chunk;
    return {logp, entropy};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &tokens = saved[2], &lse = saved[3], &entropy = saved[4];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const int64_t chunk = ctx->saved_data["chunk"].toInt(), rows = hidden.size(0);
    at::Tensor d_hidden = at::empty_like(hidden), d_weight = at::zeros_like(weight);
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t n = std::min(chunk, rows - first);
      const at::Tensor x = hidden.narrow(0, first, n);
      const at::Tensor log_p = at::matmul(x, weight.t()).div_(temperature).sub_(lse.narrow(0, first, n).unsqueeze(1));
      at::Tensor p = log_p.exp(), d_logits = at::zeros_like(p);
      if (grads[0].defined()) {   // d log p_y / dz = onehot(y) - p
        const at::Tensor g = grads[0].narrow(0, first, n).unsqueeze(1);
        d_logits.sub_(p * g).scatter_add_(1, tokens.narrow(0, first, n).unsqueeze(1), g.contiguous());
      }
      if (grads[1].defined())     // dH / dz = -p (log p + H)
        d_logits.sub_(p.mul_(log_p + entropy.narrow(0, first, n).unsqueeze(1)).mul_(grads[1].narrow(0, first, n).unsqueeze(1)));
      d_logits.div_(temperature);
      d_hidden.narrow(0, first, n).copy_(at::matmul(d_logits, weight));
      d_weight.addmm_(d_logits.t(), x);
    }
    return {d_hidden, d_weight, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> linear_logprob(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens,
                                                  const LinearLogprobOptions& options) {
  TT_CHECK_EQ(hidden.size(1), weight.size(1));
  TT_CHECK_EQ(hidden.size(0), tokens.size(0));
  TT_CHECK_GT(options.temperature, 0.0);
  const variable_list out =
      LinearLogprob::apply(hidden, weight, tokens, options.temperature, std::max<int64_t>(1, options.chunk_rows));
  return {out[0], out[1]};
}

}  // namespace trimtab
