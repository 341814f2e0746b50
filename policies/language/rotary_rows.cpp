#include "policies/language/rotary_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace trimtab {

// The angles are turned by the C library. LibTorch's cos (MKL's) gives other last digits once in some hundred processes, when two
// threads call it for the first time at once: a run that starts again from a checkpoint would no longer be the run it was.
RotaryRows rotary_rows(const RopeFrequencies& rope, const std::vector<int64_t>& positions, const at::TensorOptions& options) {
  const auto half = static_cast<int64_t>(rope.inverse.size());
  if (positions.empty()) return {at::empty({0, half}, options), at::empty({0, half}, options)};
  const auto [first, last] = std::minmax_element(positions.begin(), positions.end());
  const at::Tensor cosine = at::empty({*last - *first + 1, half}, at::kDouble), sine = at::empty_like(cosine);
  double *c = cosine.mutable_data_ptr<double>(), *s = sine.mutable_data_ptr<double>();
  for (int64_t p = *first; p <= *last; ++p)
    for (const double inverse : rope.inverse) {
      const double angle = static_cast<double>(p) * inverse;
      *c++ = std::cos(angle) * rope.attention_factor, *s++ = std::sin(angle) * rope.attention_factor;
    }
  const at::Tensor rows = at::tensor(positions, at::kLong) - *first;
  const auto of = [&](const at::Tensor& table) { return table.index_select(0, rows).to(options); };
  return {of(cosine), of(sine)};
}

}  // namespace trimtab
