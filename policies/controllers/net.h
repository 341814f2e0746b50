// The network of controller.h on plain arrays: which layers there are, where their parameters lie in the flat
// buffer, and the forward and backward passes. Items of all decisions are packed one after another without
// the absent ones, so absent items cost nothing and cannot contribute.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/dense/dense.h"
#include "policies/controllers/attention.h"
#include "policies/controllers/controller.h"
#include "policies/controllers/row_buffer.h"

namespace trimtab {

enum class RowLevel { kItem, kDecision };

struct NetLayer {
  int64_t in = 0, context = 0, pooled = 0, out = 0;
  RowLevel level = RowLevel::kItem;
  Activation activation = Activation::kNone;
  int64_t item_offset = 0, ctx_offset = 0, bias_offset = 0;  // in the flat parameters
  std::optional<Attention> attention;                        // over its outputs, before the next layer reads them
  int64_t ctx_width() const { return context + pooled; }
};

struct NetShape {
  int64_t context = 0, item = 0, max_items = 1;
  bool set = false;  // false: one row per decision, its features are the context
  RowLevel output = RowLevel::kDecision;
  int64_t outputs = 1;
  std::vector<int64_t> hidden;
  Activation activation = Activation::kTanh;
  int64_t attention = 0;  // heads after every hidden layer of a set but the last; 0: none
};

// Forward activations and backward scratch for up to `capacity` decisions.
struct NetScratch {
  int64_t capacity = 0;
  int64_t size = 0, rows = 0;     // of the last forward
  std::vector<int32_t> offsets;   // [capacity + 1]: rows of decision i
  std::vector<int32_t> decision;  // [rows]: which decision a row belongs to
  std::vector<int32_t> slot;      // [rows]: which of its items a row is
  RowBuffer context;              // [size, context], normalised
  RowBuffer input;                // [rows, item], normalised
  std::vector<RowBuffer> ctx;     // per layer [size, context + pooled]
  std::vector<RowBuffer> base;    // per layer [size, out]: c B + b
  std::vector<RowBuffer> output;  // per layer [rows or size, out]
  std::vector<ItemAttentionState> attention;  // per layer; empty buffers where it has none
  AttentionScratch attention_scratch;
  RowBuffer gradient[2];          // [rows, widest]
  RowBuffer decision_gradient;    // [size, widest]
  RowBuffer pooled_gradient;      // [size, widest]
  RowBuffer transposed;           // [widest, widest]
};

class Net {
 public:
  explicit Net(const NetShape& shape);

  const NetShape& shape() const { return shape_; }
  const std::vector<NetLayer>& layers() const { return layers_; }
  int64_t num_parameters() const { return num_parameters_; }
  std::vector<ParameterInfo> parameter_infos()
      const;  // "layer0.item.weight", "layer0.context.weight", "layer0.bias", "layer0.attention.query", ...
  NetScratch scratch(int64_t capacity) const;

  // From scratch.context and scratch.input (filled by the caller with offsets, decision, slot, size, rows) to
  // scratch.output.back().
  void forward(const float* parameters, NetScratch& scratch) const;
  // Adds to `gradient` (laid out as the parameters). scratch.gradient[0] holds d(loss)/d(output).
  void backward(const float* parameters, float* gradient, NetScratch& scratch) const;

 private:
  void backward_context(const NetLayer& layer, size_t index, const float* parameters, const RowBuffer& dy,
                        float* gradient, NetScratch& scratch) const;
  const RowBuffer& layer_input(size_t index, const NetScratch& scratch) const;

  NetShape shape_;
  std::vector<NetLayer> layers_;
  int64_t num_parameters_ = 0, widest_ = 1;
};

// Orthogonal rows or columns (whichever are fewer) times the gain, for the stacked matrix [item; context] of
// every layer; biases zero. Queries, keys and values of attention have gain 1, so that they are as large as what they read;
// the output has gain 0.1, so that a network starts near the one without attention, which is known to learn. `owner` tells
// the networks of one run apart.
void initialise_orthogonal(const Net& net, double last_layer_gain, uint64_t seed, uint32_t owner,
                           float* parameters);

}  // namespace trimtab
