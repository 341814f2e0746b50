// The gated unit of Llama's MLP (Shazeer, arXiv 2002.05202) on plain arrays, f32 or f64: of rows [gate | up],
//
//   y = silu(gate) up,  silu(g) = g s,  s = 1 / (1 + exp(-g))
//   d_gate = dy up s (1 + g (1 - s)),  d_up = dy silu(gate)
//
// Rows lie behind one another. Outputs must not overlap inputs, but y may be dy. Thread-safe; no allocation.
#pragma once

#include <cstdint>

namespace trimtab {

template <class T>
struct SwiGlu {
  int64_t rows = 0, width = 0;
  const T* gate_up = nullptr;   // [rows, 2 width]
  T* y = nullptr;               // [rows, width]
};

template <class T>
struct SwiGluGradient {
  int64_t rows = 0, width = 0;
  const T* gate_up = nullptr;   // [rows, 2 width]
  const T* dy = nullptr;        // [rows, width]
  T* d_gate_up = nullptr;       // [rows, 2 width]
  T* y = nullptr;               // [rows, width]: the forward's result again, for a caller that did not keep it
};

void swiglu(const SwiGlu<float>& a);
void swiglu(const SwiGlu<double>& a);
void swiglu_gradient(const SwiGluGradient<float>& a);
void swiglu_gradient(const SwiGluGradient<double>& a);

}  // namespace trimtab
