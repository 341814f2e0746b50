// An f32 tensor as the plain array that kernels, optimisers and files take.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

namespace trimtab {

// `t` is contiguous and outlives what is returned.
inline std::span<float> floats(const at::Tensor& t) { return {t.data_ptr<float>(), static_cast<size_t>(t.numel())}; }

}  // namespace trimtab
