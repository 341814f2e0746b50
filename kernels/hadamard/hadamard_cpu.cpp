#include "kernels/hadamard/hadamard.h"

#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

// One level: sums and differences of numbers `half` apart. For half >= 4 the compiler makes vectors of the inner loop.
void butterflies(float* x, int64_t n, int64_t half) {
  for (int64_t first = 0; first < n; first += 2 * half)
    for (int64_t i = first; i < first + half; ++i) {
      const float a = x[i], b = x[i + half];
      x[i] = a + b, x[i + half] = a - b;
    }
}

}  // namespace

void hadamard(int64_t num_rows, int64_t n, float* rows, int64_t stride) {
  TT_CHECK(hadamard_exists(n), "rows of {}: a power of two up to 512", n);
  const float scale = 1 / std::sqrt(static_cast<float>(n));
  for (int64_t r = 0; r < num_rows; ++r) {
    float* x = rows + r * stride;
    for (int64_t half = 1; half < n; half *= 2) butterflies(x, n, half);
    for (int64_t i = 0; i < n; ++i) x[i] *= scale;
  }
}

}  // namespace trimtab
