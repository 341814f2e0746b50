// Self-attention over the items of each decision, a residual block between two layers of a network (Vaswani et al.,
// "Attention is all you need", 2017, eq. 1, without positions, biases and normalisation, so that it stays permutation
// equivariant):
//
//   y = h + concat over heads( softmax( Q_a K_a^T / sqrt(d) ) V_a ) O       Q = h W_q, K = h W_k, V = h W_v, d = width / heads
//
// Q_a: the columns of head a. Rows are packed by decision, so absent items are neither asked nor answered, and a decision's
// result does not depend on the others.
#pragma once

#include <cstdint>

#include "kernels/dense/dense.h"
#include "policies/controllers/row_buffer.h"

namespace trimtab {

// Of one block, for up to `rows` rows: what forward leaves for backward.
struct ItemAttentionState {
  RowBuffer query, key, value;  // [rows, width]
  RowBuffer mixed;              // [rows, width]: before O
  RowBuffer output;             // [rows, width]: y
};

// Shared by the blocks of a network. The weights of the softmax are [items, items] of one decision and one head at a time;
// backward computes them again, so that memory does not grow with the number of decisions times items squared.
struct AttentionScratch {
  RowBuffer weights, d_weights;                // [max_items, max_items]
  RowBuffer slice;                             // [widest, max_items]: K_a^T or V_a^T
  RowBuffer d_query, d_key, d_value, d_mixed;  // [rows, widest]
};

class Attention {
 public:
  // Parameters are W_q, W_k, W_v, O one after another from `offset` on, each [width, width].
  Attention(int64_t width, int64_t heads, int64_t offset) : width_(width), heads_(heads), offset_(offset) {}

  int64_t width() const { return width_; }
  int64_t heads() const { return heads_; }
  int64_t num_parameters() const { return 4 * width_ * width_; }
  // Query, key, value, out: where weight 0 .. 3 lies in the flat parameters.
  int64_t weight_offset(int weight) const { return offset_ + weight * width_ * width_; }
  static constexpr int kNumWeights = 4;
  static const char* weight_name(int weight);

  ItemAttentionState state(int64_t rows) const;
  static AttentionScratch scratch(int64_t rows, int64_t widest, int64_t max_items);

  // `offsets` [size + 1]: the rows of each decision. Writes state.output from `h`.
  void forward(const float* parameters, int64_t size, const int32_t* offsets, const RowBuffer& h, ItemAttentionState& state,
               AttentionScratch& scratch) const;
  // From d(loss)/d(y) in `dy`, which is overwritten, to d(loss)/d(x) in `dx`, h = act(x); adds to `gradient` (laid out as
  // the parameters). `transposed`: at least [width, width].
  void backward(const float* parameters, int64_t size, const int32_t* offsets, const RowBuffer& h, Activation activation,
                ItemAttentionState& state, AttentionScratch& scratch, RowBuffer& transposed, RowBuffer& dy, RowBuffer& dx,
                float* gradient) const;

 private:
  void weigh(const ItemAttentionState& state, int64_t first, int64_t items, int64_t column, AttentionScratch& scratch) const;
  void backward_head(ItemAttentionState& state, int64_t first, int64_t items, int64_t column, AttentionScratch& scratch) const;
  float scale() const;

  int64_t width_, heads_, offset_;
};

}  // namespace trimtab
