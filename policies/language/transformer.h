// Decoder-only transformer of the Llama, Qwen2 and Qwen3 families: RMSNorm, rotary embeddings, grouped-query attention,
// SwiGLU. It runs over packed rows of a trie of segments, so what sequences have in common is computed once
// (ops/attention_trie.h). Parameters carry Hugging Face's names and lie in one flat buffer, as their gradients do. With an adapter
// (lora.h) they are frozen; then A and B, in a flat buffer of their own, are what trains.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "policies/language/config.h"
#include "policies/language/lora.h"
#include "policies/language/ops/trie.h"

namespace trimtab {

// Deviations of a new model's weights; 0.02 is Hugging Face's.
struct Initialisation {
  double weight = 0.02, embedding = 0.02;
};

struct ForwardOptions {
  bool causal = true;            // false: every row sees all of its segment and of the segments before it, as in masked diffusion
  // Keeps a layer's input alone and computes its activations again in the backward: one more forward, for the activations of one layer
  // instead of all. The gradients are the same bits. The model must outlive the backward.
  bool recompute_layers = false;
};

class Transformer {
 public:
  // Parameters drawn by key (seed, name): normal, the projections that end a residual branch scaled by 1 / sqrt(2 layers) (GPT-2),
  // norms 1, biases 0. dtype: f32, or f64 for proofs.
  Transformer(TransformerConfig config, uint64_t seed, at::ScalarType dtype = at::kFloat, Initialisation initial = {});
  // The same parameters (shared: what changes one changes both) with gradients of its own, for work side by side.
  Transformer replica() const;
  // The parameters in another format or on another device, with gradients of their own: bf16 of f32 masters, on a GPU. 16 bits and CUDA
  // compute by ops/composed.h and the CUDA kernel of attention.
  Transformer copy_as(const at::TensorOptions& options) const;
  void refresh(const Transformer& from);   // what trains takes the values of the model that this was copied from


  // FOLDER/config.json with model.safetensors, or shards and their index; f16, bf16, f32 and f64 become `dtype`. DataError
  // naming file and tensor when one is missing, unknown, doubled, of the wrong shape or not finite.
  static Transformer read(const std::filesystem::path& folder, at::ScalarType dtype = at::kFloat);
  // config.json and model.safetensors (f32) that Hugging Face transformers loads; `max_shard_bytes` splits it into shards with
  // an index. Each file is written whole or not at all.
  void write(const std::filesystem::path& folder, int64_t max_shard_bytes = int64_t{5} << 30) const;

  // A copy of the weights as a masked diffusion model. mask_id may be vocab_size: embedding and head then get one more row, the mean of
  // their others. There must be no adapter.
  Transformer as_diffusion(const DiffusionConfig& diffusion) const;

  // The same frozen base (shared) with an adapter instead of any it has: A drawn by key (seed, name) as PEFT does (uniform to
  // 1 / sqrt(in)), B zero, so at first it changes nothing. ConfigError for a target that is no linear layer.
  Transformer with_adapter(const LoraConfig& lora, uint64_t seed) const;
  // The adapter of a PEFT folder: adapter_config.json and adapter_model.safetensors. DataError naming file and tensor when one is
  // missing, unknown, of the wrong shape (another model's adapter) or not finite.
  Transformer with_adapter(const std::filesystem::path& folder) const;
  void write_adapter(const std::filesystem::path& folder) const;   // that PEFT loads; there must be an adapter
  const LoraConfig* adapter() const { return lora_ ? &*lora_ : nullptr; }
  // Weights as they act, without gradients: parameters(), with W + scale B A in place of every adapted W. write() writes these.
  std::map<std::string, at::Tensor> merged() const;

  // tokens [T] i64, the rows of `trie` -> final hidden states [T, hidden], after the last norm.
  at::Tensor hidden(const at::Tensor& tokens, const Trie& trie, const ForwardOptions& options = {}) const;
  at::Tensor head() const;     // [vocab, hidden]: logits = hidden head^T
  at::Tensor logits(const at::Tensor& tokens, const Trie& trie, const ForwardOptions& options = {}) const;   // [T, vocab]

  const TransformerConfig& config() const { return config_; }
  const std::map<std::string, at::Tensor>& parameters() const { return parameters_; }   // by name; views of flat()
  const at::Tensor& flat() const { return flat_; }                                     // [num_parameters]
  // What trains: flat() and parameters(), or an adapter's A and B alone.
  const at::Tensor& trainable() const { return lora_ ? adapter_ : flat_; }             // [num_trainable]
  const std::map<std::string, at::Tensor>& trainable_parameters() const { return lora_ ? adapter_parameters_ : parameters_; }
  const at::Tensor& flat_gradient() const { return flat_gradient_; }                   // [num_trainable]: what backward adds to
  int64_t num_parameters() const { return flat_.numel(); }

 private:
  struct LowRank {
    at::Tensor a, b;   // [rank, in], [out, rank]; undefined where there is no adapter
  };
  struct Layer {
    at::Tensor input_norm, post_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, gate, up, down, gate_bias, up_bias,
        down_bias;
    LowRank lora_q, lora_k, lora_v, lora_o, lora_gate, lora_up, lora_down;
  };
  struct Map {   // a linear layer and what is beside it
    const at::Tensor& weight;
    const LowRank& lora;
  };
  struct Rows {
    const at::Tensor &cosine, &sine;   // [T, head_dim / 2]
    const Trie& trie;
    bool causal;
  };
  // Parameters are views of `flat` [num_parameters], and of `adapter` [num_trainable] where there is one.
  Transformer(TransformerConfig config, at::Tensor flat, std::optional<LoraConfig> lora = {}, at::Tensor adapter = {});
  void bind_layers();
  at::Tensor layer(const Layer& l, const at::Tensor& x, const Rows& rows) const;
  at::Tensor attention(const Layer& l, const at::Tensor& qkv, const Rows& rows) const;
  at::Tensor add_low_rank(const at::Tensor& y, const at::Tensor& x, std::initializer_list<Map> maps) const;

  TransformerConfig config_;
  std::optional<LoraConfig> lora_;
  at::Tensor flat_, adapter_, flat_gradient_;
  std::map<std::string, at::Tensor> parameters_, adapter_parameters_;
  std::vector<Layer> layers_;
  RopeFrequencies frequencies_;
};

// Names and shapes of a model's parameters, in the order of the flat buffer.
std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(const TransformerConfig& config);
int64_t count_parameters(const TransformerConfig& config);

}  // namespace trimtab
