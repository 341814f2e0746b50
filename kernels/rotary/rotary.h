// Rotary position embedding (Su et al., arXiv 2104.09864) in the layout of Llama, in place, f32 or f64: of every head the pairs
// (i, i + size / 2) are turned by the row's angle i,
//
//   (a, b) -> (a cos - b sin, b cos + a sin)
//
// The gradient is the rotation back: sine_sign = -1 (times the factor that cosine and sine may carry). Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

template <class T>
struct Rotary {
  int64_t rows = 0, heads = 0, head_size = 0;   // head_size even
  T* x = nullptr;                               // [rows, heads, head_size]: heads behind one another
  int64_t x_stride = 0;                         // between rows
  const T* cosine = nullptr;                    // [rows, head_size / 2]
  const T* sine = nullptr;                      // [rows, head_size / 2]
  T sine_sign = 1;
};
void rotary(const Rotary<float>& a);
void rotary(const Rotary<double>& a);

}  // namespace trimtab
