// The gated unit, the linear map that reads it and the residual, as one differentiable operation: the unit's output is computed
// again in the backward instead of kept.
#pragma once

#include <ATen/core/Tensor.h>

namespace trimtab {

// gate_up [T, 2 I] = [gate | up], weight [d, I], bias [d] or undefined, residual [T, d] -> residual + (silu(gate) up) weight^T + bias.
// f32 or f64 on the CPU; anything else is composed of ATen's operations (composed.h).
at::Tensor swiglu_linear(const at::Tensor& gate_up, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& residual);

}  // namespace trimtab
