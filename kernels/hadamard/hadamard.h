// The orthonormal Walsh-Hadamard transform, y = x H_n / sqrt(n), of rows in place: a rotation that spreads outlier channels over all of a
// head before it is quantised (QuaRot, arXiv 2404.00456; OScaR, 2605.19660). It is its own inverse, and q . k stays as it is when both
// are rotated.
//
// n is a power of two up to 512 (a TT_CHECK). The order of every sum is fixed by n. Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

constexpr bool hadamard_exists(int64_t n) { return n >= 1 && n <= 512 && (n & (n - 1)) == 0; }

// rows [num_rows, n] at `stride`.
void hadamard(int64_t num_rows, int64_t n, float* rows, int64_t stride);

}  // namespace trimtab
