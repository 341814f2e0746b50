// A Transformer's weights as decoding reads them: packed panels (kernels/packed_linear), projections that share an input in one
// matrix, heads padded to whole vectors.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pool.h"
#include "engine/generation/region.h"
#include "kernels/packed_linear/packed_linear.h"
#include "policies/language/transformer.h"

namespace trimtab {

struct PackedMatrix {
  int64_t in = 0, panels = 0;
  const float* weight = nullptr;   // [panels][in][32]
  const float* bias = nullptr;     // [panels][32], or null
};

// y = finish(x W^T + bias) of panels first .. last - 1.
struct PackedProduct {
  const PackedMatrix& matrix;
  const float* x = nullptr;   // [rows, matrix.in]
  int64_t x_stride = 0;
  PackedFinish finish = PackedFinish::kStore;
  float* y = nullptr;
  int64_t y_stride = 0;
};
void multiply_panels(const PackedProduct& p, int64_t rows, int64_t first, int64_t last);

// Cosines and sines of rotary embeddings at every position, times the scaling's factor.
class RopeTable {
 public:
  RopeTable(const RopeFrequencies& rope, int64_t positions);
  const float* cosine(int64_t position) const { return cosine_.data() + position * half_; }   // [head_dim / 2]
  const float* sine(int64_t position) const { return sine_.data() + position * half_; }

 private:
  int64_t half_;
  std::vector<float> cosine_, sine_;
};

struct PackedLayer {
  const float *input_norm = nullptr, *post_norm = nullptr;   // [hidden]
  const float *q_norm = nullptr, *k_norm = nullptr;          // [head_dim], or null
  PackedMatrix qkv;       // heads of q, then of k, then of v, each padded_head_dim outputs
  PackedMatrix out;       // inputs: heads of padded_head_dim
  PackedMatrix gate_up;   // 16 gates and 16 values in a panel
  PackedMatrix down;
};

class PackedModel {
 public:
  // Packs all weights, with an adapter the merged ones; `memory` is kept from call to call and must outlive the use. Norms and embeddings
  // are read in place. Of a model's first `layers` alone: the final norm and the head read what they leave.
  PackedModel(const Transformer& model, Region& memory, Pool& pool, int64_t layers);
  PackedModel(const Transformer& model, Region& memory, Pool& pool) : PackedModel(model, memory, pool, model.config().num_layers) {}

  const TransformerConfig& config() const { return config_; }
  int64_t head_stride() const { return head_stride_; }   // padded_head_dim
  const std::vector<PackedLayer>& layers() const { return layers_; }
  const PackedMatrix& head() const { return head_; }
  const float* embedding(int32_t token) const { return embeddings_ + token * config_.hidden_size; }
  const float* final_norm() const { return final_norm_; }
  int64_t weight_bytes() const { return used_ * static_cast<int64_t>(sizeof(float)); }   // read once by a step

 private:
  struct Plan;
  void plan_layer(Plan& plan, PackedLayer& layer, int64_t index);

  TransformerConfig config_;
  int64_t head_stride_ = 0, used_ = 0;
  std::vector<PackedLayer> layers_;
  PackedMatrix head_;
  const float *embeddings_ = nullptr, *final_norm_ = nullptr;
};

}  // namespace trimtab
