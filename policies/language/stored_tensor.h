// Tensors of a safetensors file as ATen reads them.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "core/safetensors.h"

namespace trimtab {

// A view of `t`, which must outlive it, of the dtype it is stored in. DataError naming file and tensor for one that is no f16, bf16,
// f32 or f64.
at::Tensor stored_tensor(const Tensor& t, const std::string& name, const std::filesystem::path& file);

}  // namespace trimtab
