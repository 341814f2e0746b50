// The operations beside attention, composed of ATen's own: for devices and formats that the kernels do not serve (CUDA; 16 bits). Sums
// over a row are in f32 at least, whatever the format of x. Autograd differentiates them, so more is kept for the backward than by the
// kernels' versions, which the headers named here describe.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>
#include <vector>

#include "policies/language/ops/linear_logprob.h"

namespace trimtab {

bool served_by_kernels(const at::Tensor& x);   // on the CPU, f32 or f64

// Over the last dimension, any number of others (norm_linear.h).
at::Tensor composed_rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon);
at::Tensor composed_norm_linear(const at::Tensor& x, const at::Tensor& norm_weight, double epsilon, const std::vector<at::Tensor>& weights,
                                const std::vector<at::Tensor>& biases);
at::Tensor composed_norm_heads(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight, int64_t heads, int64_t kv_heads,
                               double epsilon);

// x [T, H, D] turned by the row's angles, cosine and sine [T, D / 2]: halves (a, b) become (a cos - b sin, b cos + a sin), as kernels/rotary.
at::Tensor composed_rotary(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine);

// [gate | up] -> silu(gate) up (swiglu_linear.h).
at::Tensor composed_swiglu(const at::Tensor& gate_up);

// As linear_logprob, with results in f32 at least.
std::tuple<at::Tensor, at::Tensor> composed_linear_logprob(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens,
                                                           const LinearLogprobOptions& options);

}  // namespace trimtab
