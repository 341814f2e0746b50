#include "policies/controllers/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/dense/dense.h"

namespace trimtab {
namespace {

// y = x W for all rows of two buffers.
void multiply(int64_t rows, int64_t width, const RowBuffer& x, const float* weight, RowBuffer& y) {
  dense_forward({.rows = rows,
                 .in = width,
                 .out = width,
                 .x = x.data(),
                 .x_stride = x.stride(),
                 .weight = weight,
                 .weight_stride = width,
                 .base = {},
                 .activation = Activation::kNone,
                 .y = y.data(),
                 .y_stride = y.stride()});
}

void softmax(float* x, int64_t n, float scale) {
  float top = x[0], total = 0;
  for (int64_t j = 1; j < n; ++j) top = std::max(top, x[j]);
  for (int64_t j = 0; j < n; ++j) total += x[j] = std::exp((x[j] - top) * scale);
  for (int64_t j = 0; j < n; ++j) x[j] /= total;
}

}  // namespace

const char* Attention::weight_name(int weight) {
  static constexpr const char* kNames[] = {"query", "key", "value", "out"};
  return kNames[weight];
}

ItemAttentionState Attention::state(int64_t rows) const {
  return {RowBuffer(rows, width_), RowBuffer(rows, width_), RowBuffer(rows, width_), RowBuffer(rows, width_),
          RowBuffer(rows, width_)};
}

AttentionScratch Attention::scratch(int64_t rows, int64_t widest, int64_t max_items) {
  return {RowBuffer(max_items, max_items), RowBuffer(max_items, max_items), RowBuffer(widest, max_items),
          RowBuffer(rows, widest),         RowBuffer(rows, widest),         RowBuffer(rows, widest),
          RowBuffer(rows, widest)};
}

float Attention::scale() const { return 1.0f / std::sqrt(static_cast<float>(width_ / heads_)); }

// scratch.weights = softmax( Q_a K_a^T / sqrt(d) ) of one decision and the head whose columns begin at `column`.
void Attention::weigh(const ItemAttentionState& state, int64_t first, int64_t items, int64_t column,
                      AttentionScratch& s) const {
  const int64_t d = width_ / heads_;
  dense_transpose(items, d, state.key.row(first) + column, state.key.stride(), s.slice.data(), s.slice.stride());
  dense_forward({.rows = items,
                 .in = d,
                 .out = items,
                 .x = state.query.row(first) + column,
                 .x_stride = state.query.stride(),
                 .weight = s.slice.data(),
                 .weight_stride = s.slice.stride(),
                 .base = {},
                 .activation = Activation::kNone,
                 .y = s.weights.data(),
                 .y_stride = s.weights.stride()});
  for (int64_t r = 0; r < items; ++r) softmax(s.weights.row(r), items, scale());
}

void Attention::forward(const float* parameters, int64_t size, const int32_t* offsets, const RowBuffer& h,
                        ItemAttentionState& state, AttentionScratch& s) const {
  const int64_t d = width_ / heads_, rows = offsets[size];
  RowBuffer* const products[] = {&state.query, &state.key, &state.value};
  for (int k = 0; k < 3; ++k) multiply(rows, width_, h, parameters + weight_offset(k), *products[k]);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t first = offsets[i], items = offsets[i + 1] - first;
    if (items == 0) continue;
    for (int64_t column = 0; column < width_; column += d) {
      weigh(state, first, items, column, s);
      dense_forward({.rows = items,
                     .in = items,
                     .out = d,
                     .x = s.weights.data(),
                     .x_stride = s.weights.stride(),
                     .weight = state.value.row(first) + column,
                     .weight_stride = state.value.stride(),
                     .base = {},
                     .activation = Activation::kNone,
                     .y = state.mixed.row(first) + column,
                     .y_stride = state.mixed.stride()});
    }
  }
  dense_forward({.rows = rows,
                 .in = width_,
                 .out = width_,
                 .x = state.mixed.data(),
                 .x_stride = state.mixed.stride(),
                 .weight = parameters + weight_offset(3),
                 .weight_stride = width_,
                 .base = {.data = h.data(), .stride = h.stride()},
                 .activation = Activation::kNone,
                 .y = state.output.data(),
                 .y_stride = state.output.stride()});
}

// d(loss)/d(Q_a), d(K_a), d(V_a) of one decision and head, from s.d_mixed.
void Attention::backward_head(ItemAttentionState& state, int64_t first, int64_t items, int64_t column,
                              AttentionScratch& s) const {
  const int64_t d = width_ / heads_;
  weigh(state, first, items, column, s);
  dense_weight_gradient({.rows = items,
                         .in = items,
                         .out = d,
                         .x = s.weights.data(),
                         .x_stride = s.weights.stride(),
                         .dy = s.d_mixed.row(first) + column,
                         .dy_stride = s.d_mixed.stride(),
                         .dw = s.d_value.row(first) + column,
                         .dw_stride = s.d_value.stride()});
  dense_transpose(items, d, state.value.row(first) + column, state.value.stride(), s.slice.data(), s.slice.stride());
  dense_forward({.rows = items,
                 .in = d,
                 .out = items,
                 .x = s.d_mixed.row(first) + column,
                 .x_stride = s.d_mixed.stride(),
                 .weight = s.slice.data(),
                 .weight_stride = s.slice.stride(),
                 .base = {},
                 .activation = Activation::kNone,
                 .y = s.d_weights.data(),
                 .y_stride = s.d_weights.stride()});
  // The softmax: dS = P * (dP - sum over the row of P dP).
  for (int64_t r = 0; r < items; ++r) {
    const float* p = s.weights.row(r);
    float *dp = s.d_weights.row(r), total = 0;
    for (int64_t j = 0; j < items; ++j) total += p[j] * dp[j];
    for (int64_t j = 0; j < items; ++j) dp[j] = scale() * p[j] * (dp[j] - total);
  }
  dense_forward({.rows = items,
                 .in = items,
                 .out = d,
                 .x = s.d_weights.data(),
                 .x_stride = s.d_weights.stride(),
                 .weight = state.key.row(first) + column,
                 .weight_stride = state.key.stride(),
                 .base = {},
                 .activation = Activation::kNone,
                 .y = s.d_query.row(first) + column,
                 .y_stride = s.d_query.stride()});
  dense_weight_gradient({.rows = items,
                         .in = items,
                         .out = d,
                         .x = s.d_weights.data(),
                         .x_stride = s.d_weights.stride(),
                         .dy = state.query.row(first) + column,
                         .dy_stride = state.query.stride(),
                         .dw = s.d_key.row(first) + column,
                         .dw_stride = s.d_key.stride()});
}

void Attention::backward(const float* parameters, int64_t size, const int32_t* offsets, const RowBuffer& h,
                         Activation activation, ItemAttentionState& state, AttentionScratch& s, RowBuffer& transposed,
                         RowBuffer& dy, RowBuffer& dx, float* gradient) const {
  const int64_t d = width_ / heads_, rows = offsets[size];
  const auto weight_gradient = [&](int weight, const RowBuffer& x, const RowBuffer& d_product) {
    dense_weight_gradient({.rows = rows,
                           .in = width_,
                           .out = width_,
                           .x = x.data(),
                           .x_stride = x.stride(),
                           .dy = d_product.data(),
                           .dy_stride = d_product.stride(),
                           .dw = gradient + weight_offset(weight),
                           .dw_stride = width_});
  };
  // to = ( d_product W^T + from ) * act'(h)
  const auto input_gradient = [&](int weight, const RowBuffer& d_product, DenseBase from, Activation act, RowBuffer& to) {
    dense_transpose(width_, width_, parameters + weight_offset(weight), width_, transposed.data(), transposed.stride());
    dense_input_gradient({.rows = rows,
                          .in = width_,
                          .out = width_,
                          .dy = d_product.data(),
                          .dy_stride = d_product.stride(),
                          .weight_transposed = transposed.data(),
                          .weight_stride = transposed.stride(),
                          .base = from,
                          .activation = act,
                          .x = h.data(),
                          .x_stride = h.stride(),
                          .dx = to.data(),
                          .dx_stride = to.stride()});
  };
  weight_gradient(3, state.mixed, dy);
  input_gradient(3, dy, {}, Activation::kNone, s.d_mixed);
  for (int64_t r = 0; r < rows; ++r) {  // added to below
    std::fill_n(s.d_key.row(r), width_, 0.0f);
    std::fill_n(s.d_value.row(r), width_, 0.0f);
  }
  for (int64_t i = 0; i < size; ++i) {
    const int64_t first = offsets[i], items = offsets[i + 1] - first;
    if (items == 0) continue;
    for (int64_t column = 0; column < width_; column += d) backward_head(state, first, items, column, s);
  }
  weight_gradient(0, h, s.d_query);
  weight_gradient(1, h, s.d_key);
  weight_gradient(2, h, s.d_value);
  const auto rows_of = [](const RowBuffer& x) { return DenseBase{.data = x.data(), .stride = x.stride()}; };
  input_gradient(0, s.d_query, rows_of(dy), Activation::kNone, dx);
  input_gradient(1, s.d_key, rows_of(dx), Activation::kNone, dy);
  input_gradient(2, s.d_value, rows_of(dy), activation, dx);
}

}  // namespace trimtab
