// A language model as people hand it around: a transformer and its tokenizer in one Hugging Face folder, or the `model` folder of a
// run; and what a model that starts from nothing is made of.
#pragma once

#include <filesystem>
#include <memory>

#include "core/options.h"
#include "policies/language/transformer.h"
#include "policies/tokenizer/tokenizer.h"

namespace trimtab {

// Keys of `policy.architecture`.
struct ArchitectureOptions {
  std::string family = "llama";
  int64_t hidden_size = 96, num_layers = 3, num_heads = 3, num_kv_heads = 0, intermediate_size = 0, max_positions = 2048;
  int64_t head_dim = 0;   // 0: hidden_size / num_heads
  double rope_theta = 10000, init_std = 0.02, embedding_std = 0.02;
  bool tied_embeddings = false;
  void describe(Fields& f);
  void validate() const;
  TransformerConfig config(const Tokenizer& tokenizer) const;
};

// Into `folder`, written beside and put in place by rename; an adapter is merged into the weights.
void save_model(const Transformer& transformer, const Tokenizer& tokenizer, const std::filesystem::path& folder);
// The adapter alone, in PEFT's layout, likewise. There must be one.
void save_adapter(const Transformer& transformer, const std::filesystem::path& folder);

struct LanguageModel {
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<Tokenizer> tokenizer;

  // PATH/model when PATH is a run, else PATH itself. DataError naming the file and the cure: no model there, a damaged one, a
  // tokenizer with more tokens than the model has rows.
  static LanguageModel load(const std::filesystem::path& path);
  static LanguageModel create(const ArchitectureOptions& architecture, TokenizerFiles tokenizer, uint64_t seed);
  void save(const std::filesystem::path& folder) const { save_model(*transformer, *tokenizer, folder); }
};

}  // namespace trimtab
