// Decoder-only transformer of the Llama, Qwen2 and Qwen3 families: RMSNorm, rotary embeddings, grouped-query attention,
// SwiGLU. It runs over packed rows of a trie of segments, so what sequences have in common is computed once
// (ops/attention_trie.h). Parameters carry Hugging Face's names and lie in one flat buffer, as their gradients do.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "policies/language/config.h"
#include "policies/language/ops/trie.h"

namespace trimtab {

// Deviations of a new model's weights; 0.02 is Hugging Face's.
struct Initialisation {
  double weight = 0.02, embedding = 0.02;
};

class Transformer {
 public:
  // Parameters drawn by key (seed, name): normal, the projections that end a residual branch scaled by 1 / sqrt(2 layers) (GPT-2),
  // norms 1, biases 0. dtype: f32, or f64 for proofs.
  Transformer(TransformerConfig config, uint64_t seed, at::ScalarType dtype = at::kFloat, Initialisation initial = {});
  // The same parameters (shared: what changes one changes both) with gradients of its own, for work side by side.
  Transformer replica() const;

  // FOLDER/config.json with model.safetensors, or shards and their index; f16, bf16, f32 and f64 become `dtype`. DataError
  // naming file and tensor when one is missing, unknown, doubled, of the wrong shape or not finite.
  static Transformer read(const std::filesystem::path& folder, at::ScalarType dtype = at::kFloat);
  // config.json and model.safetensors (f32) that Hugging Face transformers loads; `max_shard_bytes` splits it into shards with
  // an index. Each file is written whole or not at all.
  void write(const std::filesystem::path& folder, int64_t max_shard_bytes = int64_t{5} << 30) const;

  // tokens [T] i64, the rows of `trie` -> final hidden states [T, hidden], after the last norm.
  at::Tensor hidden(const at::Tensor& tokens, const Trie& trie) const;
  const at::Tensor& head() const;     // [vocab, hidden]: logits = hidden head^T
  at::Tensor logits(const at::Tensor& tokens, const Trie& trie) const;   // [T, vocab]

  const TransformerConfig& config() const { return config_; }
  const std::map<std::string, at::Tensor>& parameters() const { return parameters_; }   // by name; views of flat()
  const at::Tensor& flat() const { return flat_; }                                     // [num_parameters]
  const at::Tensor& flat_gradient() const { return flat_gradient_; }                   // what backward adds to
  int64_t num_parameters() const { return flat_.numel(); }

 private:
  struct Layer {
    at::Tensor input_norm, post_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, gate, up, down, gate_bias, up_bias,
        down_bias;
  };
  Transformer(TransformerConfig config, at::Tensor flat);   // parameters are views of `flat` [num_parameters]
  at::Tensor layer(const Layer& l, const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie) const;

  TransformerConfig config_;
  at::Tensor flat_, flat_gradient_;
  std::map<std::string, at::Tensor> parameters_;
  std::vector<Layer> layers_;
  RopeFrequencies frequencies_;
};

// Names and shapes of a model's parameters, in the order of the flat buffer.
std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(const TransformerConfig& config);
int64_t count_parameters(const TransformerConfig& config);

}  // namespace trimtab
