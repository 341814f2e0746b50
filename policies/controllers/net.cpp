#include "policies/controllers/net.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "kernels/segment/segment.h"

namespace trimtab {

RowBuffer::RowBuffer(int64_t rows, int64_t columns) {
  constexpr int64_t kFloatsPerLine = 16;
  stride_ = (columns + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine;
  const size_t size = static_cast<size_t>(std::max<int64_t>(rows * stride_, 1));
  data_ = hwy::AllocateAligned<float>(size);
  TT_CHECK(data_ != nullptr, "no memory for {} floats", size);
  std::fill_n(data_.get(), size, 0.0f);
}

Net::Net(const NetShape& shape) : shape_(shape) {
  std::vector<int64_t> widths = shape_.hidden;
  widths.push_back(shape_.outputs);
  int64_t previous = shape_.set ? shape_.item : shape_.context;
  for (size_t l = 0; l < widths.size(); ++l) {
    const bool last = l + 1 == widths.size();
    NetLayer layer;
    layer.out = widths[l];
    layer.activation = last ? Activation::kNone : shape_.activation;
    layer.level =
        shape_.set && !(last && shape_.output == RowLevel::kDecision) ? RowLevel::kItem : RowLevel::kDecision;
    layer.in = shape_.set && layer.level == RowLevel::kDecision ? 0 : previous;
    layer.context = shape_.set && (!last || l == 0) ? shape_.context : 0;
    layer.pooled = shape_.set && (!last || l == 0 || layer.in == 0) ? previous : 0;
    layer.item_offset = num_parameters_;
    layer.ctx_offset = layer.item_offset + layer.in * layer.out;
    layer.bias_offset = layer.ctx_offset + layer.ctx_width() * layer.out;
    num_parameters_ = layer.bias_offset + layer.out;
    if (shape_.set && shape_.attention > 0 && l + 1 < shape_.hidden.size()) {
      TT_CHECK_EQ(layer.out % shape_.attention, 0);
      layer.attention.emplace(layer.out, shape_.attention, num_parameters_);
      num_parameters_ += layer.attention->num_parameters();
    }
    widest_ = std::max({widest_, layer.in, layer.ctx_width(), layer.out});
    previous = layer.out;
    layers_.push_back(layer);
  }
}

std::vector<ParameterInfo> Net::parameter_infos() const {
  std::vector<ParameterInfo> infos;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const NetLayer& a = layers_[l];
    const std::string prefix = "layer" + std::to_string(l);
    if (a.in > 0) infos.push_back({prefix + ".item.weight", {a.in, a.out}, a.item_offset, a.in * a.out});
    if (a.ctx_width() > 0)
      infos.push_back(
          {prefix + ".context.weight", {a.ctx_width(), a.out}, a.ctx_offset, a.ctx_width() * a.out});
    infos.push_back({prefix + ".bias", {a.out}, a.bias_offset, a.out});
    for (int k = 0; a.attention && k < Attention::kNumWeights; ++k)
      infos.push_back({prefix + ".attention." + Attention::weight_name(k), {a.out, a.out},
                       a.attention->weight_offset(k), a.out * a.out});
  }
  return infos;
}

NetScratch Net::scratch(int64_t capacity) const {
  NetScratch s;
  s.capacity = capacity;
  const int64_t rows = capacity * (shape_.set ? shape_.max_items : 1);
  s.offsets.resize(capacity + 1);
  s.decision.resize(rows);
  s.slot.resize(rows);
  s.context = RowBuffer(capacity, shape_.context);
  if (shape_.set) s.input = RowBuffer(rows, shape_.item);
  int64_t widest_attention = 0;
  for (const NetLayer& layer : layers_) {
    const bool item = layer.level == RowLevel::kItem;
    s.ctx.push_back(layer.ctx_width() > 0 ? RowBuffer(capacity, layer.ctx_width()) : RowBuffer());
    s.base.push_back(layer.ctx_width() > 0 && item ? RowBuffer(capacity, layer.out) : RowBuffer());
    s.output.push_back(RowBuffer(item ? rows : capacity, layer.out));
    s.attention.push_back(layer.attention ? layer.attention->state(rows) : ItemAttentionState());
    if (layer.attention) widest_attention = std::max(widest_attention, layer.out);
  }
  if (widest_attention > 0) s.attention_scratch = Attention::scratch(rows, widest_attention, shape_.max_items);
  for (RowBuffer& gradient : s.gradient) gradient = RowBuffer(rows, widest_);
  s.decision_gradient = RowBuffer(capacity, widest_);
  s.pooled_gradient = RowBuffer(capacity, widest_);
  s.transposed = RowBuffer(widest_, widest_);
  return s;
}

const RowBuffer& Net::layer_input(size_t index, const NetScratch& s) const {
  if (index == 0) return shape_.set ? s.input : s.context;
  return layers_[index - 1].attention ? s.attention[index - 1].output : s.output[index - 1];
}

void Net::forward(const float* parameters, NetScratch& s) const {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const NetLayer& a = layers_[l];
    const RowBuffer& input = layer_input(l, s);
    DenseBase base = {.data = parameters + a.bias_offset};
    if (a.ctx_width() > 0) {
      RowBuffer& ctx = s.ctx[l];
      if (a.context > 0)
        for (int64_t i = 0; i < s.size; ++i)
          std::memcpy(ctx.row(i), s.context.row(i), a.context * sizeof(float));
      segment_mean({.segments = s.size,
                    .columns = a.pooled,
                    .offsets = s.offsets.data(),
                    .x = input.data(),
                    .x_stride = input.stride(),
                    .y = ctx.data() + a.context,
                    .y_stride = ctx.stride()});
      const bool per_item = a.level == RowLevel::kItem;
      RowBuffer& product = per_item ? s.base[l] : s.output[l];
      dense_forward({.rows = s.size,
                     .in = a.ctx_width(),
                     .out = a.out,
                     .x = ctx.data(),
                     .x_stride = ctx.stride(),
                     .weight = parameters + a.ctx_offset,
                     .weight_stride = a.out,
                     .base = base,
                     .activation = per_item ? Activation::kNone : a.activation,
                     .y = product.data(),
                     .y_stride = product.stride()});
      if (!per_item) continue;
      base = {.data = product.data(), .stride = product.stride(), .row = s.decision.data()};
    }
    dense_forward({.rows = s.rows,
                   .in = a.in,
                   .out = a.out,
                   .x = input.data(),
                   .x_stride = input.stride(),
                   .weight = parameters + a.item_offset,
                   .weight_stride = a.out,
                   .base = base,
                   .activation = a.activation,
                   .y = s.output[l].data(),
                   .y_stride = s.output[l].stride()});
    if (a.attention)
      a.attention->forward(parameters, s.size, s.offsets.data(), s.output[l], s.attention[l], s.attention_scratch);
  }
}

// The part of layer `index` that is computed once per decision: gradients of B and b from `dy` [size, out],
// and of the mean over items, already divided by their number.
void Net::backward_context(const NetLayer& a, size_t index, const float* parameters, const RowBuffer& dy,
                           float* gradient, NetScratch& s) const {
  const RowBuffer& ctx = s.ctx[index];
  dense_column_sums(s.size, a.out, dy.data(), dy.stride(), gradient + a.bias_offset);
  dense_weight_gradient({.rows = s.size,
                         .in = a.ctx_width(),
                         .out = a.out,
                         .x = ctx.data(),
                         .x_stride = ctx.stride(),
                         .dy = dy.data(),
                         .dy_stride = dy.stride(),
                         .dw = gradient + a.ctx_offset,
                         .dw_stride = a.out});
  if (index == 0) return;
  dense_transpose(a.pooled, a.out, parameters + a.ctx_offset + a.context * a.out, a.out, s.transposed.data(),
                  s.transposed.stride());
  dense_input_gradient({.rows = s.size,
                        .in = a.pooled,
                        .out = a.out,
                        .dy = dy.data(),
                        .dy_stride = dy.stride(),
                        .weight_transposed = s.transposed.data(),
                        .weight_stride = s.transposed.stride(),
                        .base = {},
                        .dx = s.pooled_gradient.data(),
                        .dx_stride = s.pooled_gradient.stride()});
  for (int64_t i = 0; i < s.size; ++i) {
    const float scale = 1.0f / static_cast<float>(std::max(1, s.offsets[i + 1] - s.offsets[i]));
    float* row = s.pooled_gradient.row(i);
    for (int64_t j = 0; j < a.pooled; ++j) row[j] *= scale;
  }
}

void Net::backward(const float* parameters, float* gradient, NetScratch& s) const {
  int current = 0;
  for (size_t l = layers_.size(); l-- > 0;) {
    const NetLayer& a = layers_[l];
    const RowBuffer& input = layer_input(l, s);
    const RowBuffer& dy = s.gradient[current];
    DenseBase base;
    if (a.ctx_width() > 0) {
      const bool per_item = a.level == RowLevel::kItem;
      if (per_item)
        segment_sum({.segments = s.size,
                     .columns = a.out,
                     .offsets = s.offsets.data(),
                     .x = dy.data(),
                     .x_stride = dy.stride(),
                     .y = s.decision_gradient.data(),
                     .y_stride = s.decision_gradient.stride()});
      backward_context(a, l, parameters, per_item ? s.decision_gradient : dy, gradient, s);
      base = {
          .data = s.pooled_gradient.data(), .stride = s.pooled_gradient.stride(), .row = s.decision.data()};
    } else {
      dense_column_sums(s.rows, a.out, dy.data(), dy.stride(), gradient + a.bias_offset);
    }
    if (a.in > 0)
      dense_weight_gradient({.rows = s.rows,
                             .in = a.in,
                             .out = a.out,
                             .x = input.data(),
                             .x_stride = input.stride(),
                             .dy = dy.data(),
                             .dy_stride = dy.stride(),
                             .dw = gradient + a.item_offset,
                             .dw_stride = a.out});
    if (l == 0) return;
    // A layer that reads only the pooled row (in = 0) passes nothing back but through the mean.
    const NetLayer& below = layers_[l - 1];
    const int64_t width = below.out;
    if (a.in > 0)
      dense_transpose(a.in, a.out, parameters + a.item_offset, a.out, s.transposed.data(),
                      s.transposed.stride());
    RowBuffer& dx = s.gradient[1 - current];
    dense_input_gradient({.rows = s.rows,
                          .in = width,
                          .out = a.in > 0 ? a.out : 0,
                          .dy = dy.data(),
                          .dy_stride = dy.stride(),
                          .weight_transposed = s.transposed.data(),
                          .weight_stride = s.transposed.stride(),
                          .base = base,
                          .activation = below.attention ? Activation::kNone : below.activation,
                          .x = input.data(),
                          .x_stride = input.stride(),
                          .dx = dx.data(),
                          .dx_stride = dx.stride()});
    current = 1 - current;
    if (!below.attention) continue;
    below.attention->backward(parameters, s.size, s.offsets.data(), s.output[l - 1], below.activation, s.attention[l - 1],
                              s.attention_scratch, s.transposed, dx, s.gradient[1 - current], gradient);
    current = 1 - current;
  }
}

// Makes the `count` vectors of length `length` at stride `step` orthonormal (Gram-Schmidt, twice for
// accuracy).
static void orthonormalise(double* x, int64_t count, int64_t length, int64_t vector_step,
                           int64_t element_step) {
  const auto at = [&](int64_t vector, int64_t i) -> double& {
    return x[vector * vector_step + i * element_step];
  };
  for (int64_t a = 0; a < count; ++a) {
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t b = 0; b < a; ++b) {
        double dot = 0;
        for (int64_t i = 0; i < length; ++i) dot += at(a, i) * at(b, i);
        for (int64_t i = 0; i < length; ++i) at(a, i) -= dot * at(b, i);
      }
    }
    double norm = 0;
    for (int64_t i = 0; i < length; ++i) norm += at(a, i) * at(a, i);
    for (int64_t i = 0; i < length; ++i) at(a, i) /= std::sqrt(norm);
  }
}

static void draw_orthogonal(Draws draws, int64_t rows, int64_t columns, double gain, float* matrix) {
  std::vector<double> x(rows * columns);
  for (double& element : x) element = draws.normal();
  if (rows >= columns) {
    orthonormalise(x.data(), columns, rows, 1, columns);
  } else {
    orthonormalise(x.data(), rows, columns, columns, 1);
  }
  for (size_t i = 0; i < x.size(); ++i) matrix[i] = static_cast<float>(gain * x[i]);
}

void initialise_orthogonal(const Net& net, double last_layer_gain, uint64_t seed, uint32_t owner,
                           float* parameters) {
  const size_t num_layers = net.layers().size();
  const auto draws = [&](size_t matrix) { return Draws(seed, Stream::kInitialise, owner, static_cast<uint32_t>(matrix)); };
  for (size_t l = 0; l < num_layers; ++l) {
    const NetLayer& a = net.layers()[l];
    const double gain = l + 1 == num_layers ? last_layer_gain : std::sqrt(2.0);
    draw_orthogonal(draws(l), a.in + a.ctx_width(), a.out, gain, parameters + a.item_offset);
    std::fill_n(parameters + a.bias_offset, a.out, 0.0f);
    for (int k = 0; a.attention && k < Attention::kNumWeights; ++k)  // after the layers': theirs are the same with and without
      draw_orthogonal(draws(num_layers + Attention::kNumWeights * l + k), a.out, a.out, k == 3 ? 0.1 : 1.0,
                      parameters + a.attention->weight_offset(k));
  }
}

}  // namespace trimtab
