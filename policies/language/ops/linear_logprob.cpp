#include "policies/language/ops/linear_logprob.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/token_logprob/token_logprob.h"
#include "policies/language/ops/composed.h"
#include "policies/language/ops/rows.h"

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 32;   // rows that are worth a thread

struct LinearLogprob : torch::autograd::Function<LinearLogprob> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens,
                               double temperature, int64_t chunk) {
    const int64_t rows = hidden.size(0), vocab = weight.size(0);
    at::Tensor logp = at::empty({rows}, hidden.options()), entropy = at::empty_like(logp), lse = at::empty_like(logp);
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t n = std::min(chunk, rows - first);
      const at::Tensor logits = at::mm(hidden.narrow(0, first, n), weight.t());
      AT_DISPATCH_FLOATING_TYPES(hidden.scalar_type(), "token_logprob", [&] {
        at::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) {
          const int64_t row = first + begin;
          token_logprob(TokenLogprob<scalar_t>{end - begin, vocab, logits.const_data_ptr<scalar_t>() + begin * vocab, temperature,
                                               tokens.const_data_ptr<int64_t>() + row, logp.mutable_data_ptr<scalar_t>() + row,
                                               entropy.mutable_data_ptr<scalar_t>() + row, lse.mutable_data_ptr<scalar_t>() + row});
        });
      });
    }
    ctx->save_for_backward({hidden, weight, tokens, lse, entropy});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["chunk"] = chunk;
    return {logp, entropy};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &tokens = saved[2], &lse = saved[3], &entropy = saved[4];
    const at::Tensor d_logp = grads[0].defined() ? grads[0].contiguous() : grads[0],
                     d_entropy = grads[1].defined() ? grads[1].contiguous() : grads[1];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const int64_t chunk = ctx->saved_data["chunk"].toInt(), rows = hidden.size(0), vocab = weight.size(0);
    at::Tensor d_hidden = at::empty_like(hidden), d_weight = weight.requires_grad() ? at::zeros_like(weight) : at::Tensor();
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t n = std::min(chunk, rows - first);
      const at::Tensor x = hidden.narrow(0, first, n);
      const at::Tensor logits = at::mm(x, weight.t());   // becomes its gradient
      AT_DISPATCH_FLOATING_TYPES(hidden.scalar_type(), "token_logprob_gradient", [&] {
        at::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) {
          const int64_t row = first + begin;
          const auto at_row = [&](const at::Tensor& t) { return t.defined() ? t.const_data_ptr<scalar_t>() + row : nullptr; };
          token_logprob_gradient(TokenLogprobGradient<scalar_t>{end - begin, vocab, logits.mutable_data_ptr<scalar_t>() + begin * vocab,
                                                                temperature, tokens.const_data_ptr<int64_t>() + row, at_row(entropy),
                                                                at_row(lse), at_row(d_logp), at_row(d_entropy)});
        });
      });
      at::Tensor part = d_hidden.narrow(0, first, n);
      at::mm_out(part, logits, weight);
      if (d_weight.defined()) d_weight.addmm_(logits.t(), x);
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
  if (!served_by_kernels(hidden)) return composed_linear_logprob(hidden, weight, tokens, options);
  const variable_list out =
      LinearLogprob::apply(hidden.contiguous(), weight, tokens.contiguous(), options.temperature, std::max<int64_t>(1, options.chunk_rows));
  return {out[0], out[1]};
}

}  // namespace trimtab
