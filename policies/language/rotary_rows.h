#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "policies/language/config.h"

namespace trimtab {

// Cosine and sine [rows, head_dim / 2] of rotary embeddings at the rows' positions, times the scaling's factor.
struct RotaryRows {
  at::Tensor cosine, sine;
};
RotaryRows rotary_rows(const RopeFrequencies& rope, const std::vector<int64_t>& positions, const at::TensorOptions& options);

}  // namespace trimtab
