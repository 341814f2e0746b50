// Root mean square norm and the linear maps that read it, as one differentiable operation: the normed rows are computed again in
// the backward instead of kept, the maps are one matrix product where their weights lie behind one another, and the gradient that
// goes round the block (the residual) is added in the pass that makes the norm's.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace trimtab {

// x [T, d] -> {[T, sum of outputs] = rms_norm(x) [W_1; W_2; ...]^T + [b_1; b_2; ...], x for the residual}. weights [out_i, d],
// one to three; biases [out_i] for each weight, or none. f32 or f64 on the CPU; anything else is composed of ATen's operations (composed.h).
std::pair<at::Tensor, at::Tensor> norm_linear(const at::Tensor& x, const at::Tensor& norm_weight, double epsilon,
                                              const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& biases = {});

// x [T, d] -> rms_norm(x) [T, d].
at::Tensor rms_norm_rows(const at::Tensor& x, const at::Tensor& weight, double epsilon);

// Query-key norm: of rows [T, (heads + kv_heads + kv_heads) D] the first `heads` heads normed by q_weight [D], the next
// `kv_heads` by k_weight, the rest (values) as they are.
at::Tensor norm_heads(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight, int64_t heads, int64_t kv_heads,
                      double epsilon);

}  // namespace trimtab
