// A linear layer whose weights lie as the processor reads them: y = finish( x W^T + bias ), W a checkpoint's [out, in].
//
// A weight is packed once into panels of 32 outputs, [panels][in][32], and then streamed from memory in order: what decoding
// with few rows waits for. Differs from kernels/dense in that layout, and in what is fused behind the product: adding to a
// residual, and SwiGLU. All arrays are row-major f32. A sum goes through the inputs in order, so a row's result does not depend
// on the rows beside it nor on how panels are shared out. Thread-safe; no allocation. Wrong arguments are TT_CHECKs.
#pragma once

#include <cstdint>

namespace trimtab {

constexpr int64_t kPackedPanel = 32;   // outputs of a panel

inline int64_t packed_panels(int64_t out) { return (out + kPackedPanel - 1) / kPackedPanel; }

// Columns of x in a packed weight: `blocks` blocks of `block` inputs, each followed by padding (zero weights) up to `padded`.
struct PackedInputs {
  int64_t blocks = 1, block = 0, padded = 0;
  int64_t total() const { return blocks * padded; }
};

// One panel, [inputs.total()][32]: column c from rows[c] ([blocks * block]; null: zeros).
void pack_panel(const float* const* rows, const PackedInputs& inputs, float* panel);

enum class PackedFinish {
  kStore,        // y = sum
  kAdd,          // y += sum
  kSiluProduct,  // outputs 0..15 of a panel are gates g, 16..31 values u: y = g / (1 + exp(-g)) * u, 16 columns per panel
};

struct PackedLinear {
  int64_t rows = 0, in = 0;
  const float* x = nullptr;                    // [rows, in]
  int64_t x_stride = 0;
  const float* weight = nullptr;               // [panels][in][32]
  const float* bias = nullptr;                 // [panels][32]; null: none
  int64_t first_panel = 0, last_panel = 0;     // computes panels first..last-1 of the weight
  PackedFinish finish = PackedFinish::kStore;
  float* y = nullptr;                          // [rows, 32 or 16 for every panel]: whole panels are written
  int64_t y_stride = 0;
};
void packed_linear(const PackedLinear& layer);

}  // namespace trimtab
