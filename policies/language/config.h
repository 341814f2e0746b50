// What a transformer of the Llama, Qwen2 and Qwen3 families is made of, as Hugging Face's config.json says it; also when it is a masked
// diffusion model of their shape: our own, LLaDA (arXiv 2502.09992, in its own names) and Dream (arXiv 2508.15487, Qwen2's shape).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace trimtab {

// Rotary frequencies and how they are stretched for contexts longer than the model was trained on.
struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3, kYarn } scaling = Scaling::kNone;
  double theta = 10000;
  double factor = 1;                                            // all scalings
  double original_positions = 0;                                // llama3, yarn
  double low_frequency_factor = 1, high_frequency_factor = 4;   // llama3
  double beta_fast = 32, beta_slow = 1;                         // yarn
  double attention_factor = 0;                                  // yarn: 0 means 0.1 ln(factor) + 1
};

// A model that fills in masked tokens of an answer, in any order, instead of writing it from left to right.
struct DiffusionConfig {
  int64_t mask_id = -1;     // the token that stands for one not known yet; -1: an ordinary causal model
  bool shifted = false;     // logits of row i are about row i + 1, as in Dream and in models converted from causal ones
  int64_t block = 0;        // 0: every row sees all rows; else the prompt sees itself, and a row of the answer its own block of so many
                            // tokens and everything before it
  bool enabled() const { return mask_id >= 0; }
  bool operator==(const DiffusionConfig&) const = default;
};

struct TransformerConfig {
  std::string family = "llama";     // llama, qwen2, qwen3: Hugging Face's model_type
  int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t intermediate_size = 0, max_positions = 2048;
  double norm_eps = 1e-6;
  bool qkv_bias = false, output_bias = false, mlp_bias = false, qk_norm = false, tied_embeddings = false;
  RopeConfig rope;
  DiffusionConfig diffusion;
  std::vector<int64_t> eos_ids;

  // Reads FOLDER/config.json. DataError naming file, key and cure for a missing or impossible value, another architecture, or
  // something that would change the results and is not built (sliding windows, other activations, other scalings). A LLaDA becomes
  // family llama (qwen2 where q, k and v have biases), a Dream qwen2, and is written as such, with `mask_token_id` and `diffusion`.
  static TransformerConfig read(const std::filesystem::path& folder);
  std::string json() const;         // a config.json that Hugging Face transformers loads
};

// Inverse frequencies [head_dim / 2] with the scaling applied, and the factor on cosine and sine (1 but for yarn).
struct RopeFrequencies {
  std::vector<double> inverse;
  double attention_factor = 1;
};
RopeFrequencies rope_frequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace trimtab
