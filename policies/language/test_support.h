// What tests of transformers share.
#pragma once

#include <string>

#include "policies/language/config.h"

namespace trimtab {

// A model of a few thousand parameters with grouped heads; qwen2 with biases and tied embeddings, qwen3 with normalised queries.
inline TransformerConfig tiny(const std::string& family) {
  TransformerConfig c;
  c.family = family;
  c.vocab_size = 23, c.hidden_size = 16, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 8, c.intermediate_size = 24;
  c.qkv_bias = family == "qwen2", c.qk_norm = family == "qwen3", c.tied_embeddings = family == "qwen2";
  return c;
}

}  // namespace trimtab
