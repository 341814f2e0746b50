// Low-rank adapters (LoRA: Hu et al., arXiv 2106.09685). Beside the frozen weight W [out, in] of a linear layer stand A [rank, in] and
// B [out, rank]: y = W x + scale B (A x), and A and B alone learn. Here: what an adapter is made of, as PEFT's adapter_config.json says
// it; a Transformer (transformer.h) carries it. Dropout, biases, ranks that differ by layer, DoRA and the other kin are not built.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "policies/language/config.h"

namespace trimtab {

struct LoraConfig {
  int64_t rank = 16;
  double alpha = 32;
  bool rslora = false;   // scale alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732) instead of alpha / rank
  // Linear layers by their names or the ends of them, from a dot on: "q_proj" (of every layer), "layers.0.mlp.up_proj", "lm_head".
  std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  std::string base_model;   // what it belongs to: base_model_name_or_path

  double scale() const;
  // Reads FOLDER/adapter_config.json. DataError naming file, key and cure for an impossible value or something that would change the
  // results and is not built.
  static LoraConfig read(const std::filesystem::path& folder);
  std::string json() const;   // an adapter_config.json that PEFT loads
};

// Linear layers of a model that the adapter changes ("model.layers.0.self_attn.q_proj"), in the order of the model's parameters.
// A target that is no layer of the model is passed over, as PEFT does.
std::vector<std::string> adapted_layers(const LoraConfig& lora, const TransformerConfig& base);

// ConfigError naming the target that is no linear layer of the model, and those that are.
void check_targets(const LoraConfig& lora, const TransformerConfig& base);

// Names and shapes of A and B of every adapted layer ("model.layers.0.self_attn.q_proj.lora_A.weight"), in the order of the flat buffer.
std::vector<std::pair<std::string, std::vector<int64_t>>> adapter_shapes(const LoraConfig& lora, const TransformerConfig& base);

}  // namespace trimtab
