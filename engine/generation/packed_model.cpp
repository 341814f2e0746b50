#include "engine/generation/packed_model.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {

void multiply_panels(const PackedProduct& p, int64_t rows, int64_t first, int64_t last) {
  packed_linear({rows, p.matrix.in, p.x, p.x_stride, p.matrix.weight, p.matrix.bias, first, last, p.finish, p.y, p.y_stride});
}

RopeTable::RopeTable(const RopeFrequencies& rope, int64_t positions) : half_(static_cast<int64_t>(rope.inverse.size())) {
  cosine_.resize(positions * half_), sine_.resize(positions * half_);
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(p) * rope.inverse[i];
      cosine_[p * half_ + i] = static_cast<float>(std::cos(angle) * rope.attention_factor);
      sine_[p * half_ + i] = static_cast<float>(std::sin(angle) * rope.attention_factor);
    }
}

// What is to be packed where: collected first, so that the panels can be shared out among threads.
struct PackedModel::Plan {
  struct Matrix {
    PackedMatrix* to = nullptr;
    PackedInputs inputs;
    std::vector<const float*> rows;     // of every output, null where it is padding
    std::vector<const float*> biases;   // likewise; empty: none
    int64_t offset = 0;                 // numbers from the start of the memory
  };
  const std::map<std::string, at::Tensor> weights;   // with an adapter those merged here, which only packing reads
  std::vector<Matrix> matrices;

  const float* find(const std::string& name) const {
    const auto it = weights.find(name);
    return it == weights.end() ? nullptr : it->second.data_ptr<float>();
  }
  // Outputs of the linear layer `name`, from `first` on.
  void add_outputs(Matrix& m, const std::string& name, int64_t first, int64_t count) const {
    const float *weight = find(name + ".weight"), *bias = find(name + ".bias");
    TT_CHECK(weight, "no parameter {}.weight", name);
    const int64_t width = m.inputs.blocks * m.inputs.block;
    for (int64_t i = first; i < first + count; ++i) {
      m.rows.push_back(weight + i * width);
      if (bias) m.biases.resize(m.rows.size(), nullptr), m.biases.back() = bias + i;
    }
  }
  static void pad(Matrix& m, int64_t outputs) {
    m.rows.resize(m.rows.size() + outputs, nullptr);
  }
  void add_heads(Matrix& m, const std::string& name, int64_t heads, int64_t head_dim, int64_t padded) const {
    for (int64_t h = 0; h < heads; ++h) add_outputs(m, name, h * head_dim, head_dim), pad(m, padded - head_dim);
  }
  void finish(Matrix m) {
    m.rows.resize(packed_panels(static_cast<int64_t>(m.rows.size())) * kPackedPanel, nullptr);
    if (!m.biases.empty()) m.biases.resize(m.rows.size(), nullptr);
    matrices.push_back(std::move(m));
  }
  int64_t place();                        // gives every matrix its place; numbers in all
  void pack(float* memory, Pool& pool);
};

int64_t PackedModel::Plan::place() {
  int64_t used = 0;
  for (Matrix& m : matrices) {
    m.offset = used;
    used += static_cast<int64_t>(m.rows.size()) * (m.inputs.total() + (m.biases.empty() ? 0 : 1));
  }
  return used;
}

void PackedModel::Plan::pack(float* memory, Pool& pool) {
  struct Panel {
    const Matrix* matrix;
    int64_t index;
  };
  std::vector<Panel> panels;
  for (const Matrix& m : matrices) {
    const int64_t in = m.inputs.total(), outputs = static_cast<int64_t>(m.rows.size());
    float* bias = m.biases.empty() ? nullptr : memory + m.offset + outputs * in;
    for (size_t i = 0; i < m.biases.size(); ++i) bias[i] = m.biases[i] ? *m.biases[i] : 0.0f;
    *m.to = {in, outputs / kPackedPanel, memory + m.offset, bias};
    for (int64_t p = 0; p < outputs / kPackedPanel; ++p) panels.push_back({&m, p});
  }
  pool.run(static_cast<int64_t>(panels.size()), [&](int64_t i) {
    const auto& [m, p] = panels[i];
    pack_panel(m->rows.data() + p * kPackedPanel, m->inputs, memory + m->offset + p * kPackedPanel * m->inputs.total());
  });
}

void PackedModel::plan_layer(Plan& plan, PackedLayer& layer, int64_t index) {
  const TransformerConfig& c = config_;
  const std::string name = fmt::format("model.layers.{}.", index), attention = name + "self_attn.", mlp = name + "mlp.";
  layer.input_norm = plan.find(name + "input_layernorm.weight"), layer.post_norm = plan.find(name + "post_attention_layernorm.weight");
  layer.q_norm = plan.find(attention + "q_norm.weight"), layer.k_norm = plan.find(attention + "k_norm.weight");
  const PackedInputs from_hidden{1, c.hidden_size, c.hidden_size};
  Plan::Matrix qkv{&layer.qkv, from_hidden, {}, {}, 0};
  plan.add_heads(qkv, attention + "q_proj", c.num_heads, c.head_dim, head_stride_);
  plan.add_heads(qkv, attention + "k_proj", c.num_kv_heads, c.head_dim, head_stride_);
  plan.add_heads(qkv, attention + "v_proj", c.num_kv_heads, c.head_dim, head_stride_);
  plan.finish(std::move(qkv));
  Plan::Matrix out{&layer.out, {c.num_heads, c.head_dim, head_stride_}, {}, {}, 0};
  plan.add_outputs(out, attention + "o_proj", 0, c.hidden_size);
  plan.finish(std::move(out));
  Plan::Matrix gate_up{&layer.gate_up, from_hidden, {}, {}, 0};
  constexpr int64_t kHalf = kPackedPanel / 2;
  for (int64_t i = 0; i < c.intermediate_size; i += kHalf) {
    const int64_t count = std::min(kHalf, c.intermediate_size - i);
    for (const char* part : {"gate_proj", "up_proj"}) plan.add_outputs(gate_up, mlp + part, i, count), plan.pad(gate_up, kHalf - count);
  }
  plan.finish(std::move(gate_up));
  Plan::Matrix down{&layer.down, {1, c.intermediate_size, c.intermediate_size}, {}, {}, 0};
  plan.add_outputs(down, mlp + "down_proj", 0, c.hidden_size);
  plan.finish(std::move(down));
}

PackedModel::PackedModel(const Transformer& model, Region& memory, Pool& pool, int64_t layers)
    : config_(model.config()), head_stride_(padded_head_dim(config_.head_dim)), layers_(layers) {
  TT_CHECK(layers >= 1 && layers <= config_.num_layers, "{} layers of {}", layers, config_.num_layers);
  config_.num_layers = layers;
  TT_CHECK(model.flat().scalar_type() == at::kFloat, "generation reads f32 models");
  Plan plan{model.merged(), {}};
  for (int64_t i = 0; i < config_.num_layers; ++i) plan_layer(plan, layers_[i], i);
  embeddings_ = plan.find("model.embed_tokens.weight"), final_norm_ = plan.find("model.norm.weight");
  Plan::Matrix head{&head_, {1, config_.hidden_size, config_.hidden_size}, {}, {}, 0};
  plan.add_outputs(head, config_.tied_embeddings ? "model.embed_tokens" : "lm_head", 0, config_.vocab_size);
  plan.finish(std::move(head));
  used_ = plan.place();
  memory.reserve(used_);
  plan.pack(memory.data(), pool);
}

}  // namespace trimtab
