// What tests of adapters beside a base model share: random models, random adapters of them, and their weights as kernels/lora reads them.
#pragma once

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "engine/adapters/adapter_weights.h"
#include "engine/generation/generator.h"
#include "engine/multi_lora/adapter_table.h"

namespace trimtab {

struct AdapterCase {
  Transformer merged;   // the base carrying the adapter: what Generator samples
  AdapterWeights weights = {};
  std::vector<std::unique_ptr<char[]>> memory = {};
};

// Biases that are not 0, and weights large enough that the next token is far from uniform.
inline void stir_weights(const Transformer& model, Draws& draws, float scale = 8) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters()) {
    if (p.dim() == 2) p.mul_(scale);
    for (int64_t i = 0; p.dim() == 1 && i < p.numel(); ++i) p[i] += 0.2f * draws.normal();
  }
}

inline TransformerConfig random_base(Draws& draws) {
  TransformerConfig c;
  const char* families[] = {"llama", "qwen2", "qwen3"};
  c.family = families[draws.below(3)];
  c.vocab_size = 5 + draws.below(60), c.hidden_size = 4 + 3 * draws.below(16), c.num_layers = 1 + draws.below(3);
  c.num_kv_heads = 1 + draws.below(3), c.num_heads = c.num_kv_heads * (1 + draws.below(3));
  const int64_t head_dims[] = {2, 6, 16, 20, 32, 40};
  c.head_dim = head_dims[draws.below(6)], c.intermediate_size = 1 + draws.below(70), c.max_positions = 512;
  c.qkv_bias = c.family == "qwen2", c.qk_norm = c.family == "qwen3", c.tied_embeddings = draws.below(2) == 0;
  c.output_bias = c.family != "qwen2" && draws.below(3) == 0, c.mlp_bias = c.family == "llama" && draws.below(2) == 0;
  return c;
}

// [columns, rows] of a matrix [rows, columns], in the adapter's numbers; kept by the case.
inline const void* transposed(AdapterCase& c, const at::Tensor& matrix, LoraNumbers numbers) {
  const at::Tensor t = matrix.detach().t().contiguous().to(numbers == LoraNumbers::kFloat ? at::kFloat : at::kBFloat16);
  c.memory.emplace_back(new char[t.nbytes()]);
  std::memcpy(c.memory.back().get(), t.data_ptr(), t.nbytes());
  c.weights.bytes += static_cast<int64_t>(t.nbytes());
  return c.memory.back().get();
}

// B normal with `deviation`; A by `seed`, so that adapters of one seed share it (0: drawn).
inline AdapterCase adapter_case(const Transformer& base, const LoraConfig& lora, Draws& draws, float deviation, LoraNumbers numbers = LoraNumbers::kFloat,
                                uint64_t seed = 0) {
  const at::NoGradGuard no_grad;
  AdapterCase c{base.with_adapter(lora, seed > 0 ? seed : draws.bits())};
  for (const auto& [name, p] : c.merged.trainable_parameters()) {
    for (int64_t i = 0; name.ends_with("lora_B.weight") && i < p.numel(); ++i) p.view(-1)[i] = deviation * draws.normal();
    if (numbers == LoraNumbers::kBfloat16) p.copy_(p.to(at::kBFloat16));
  }
  const auto& parameters = c.merged.trainable_parameters();
  c.weights.name = "case", c.weights.rank = lora.rank;
  for (int64_t i = 0; i < base.config().num_layers * kLoraTargets; ++i) {
    const auto target = static_cast<LoraTarget>(i % kLoraTargets);
    const char* part = target < LoraTarget::kGate ? "self_attn" : "mlp";
    const auto a = parameters.find(fmt::format("model.layers.{}.{}.{}.lora_A.weight", i / kLoraTargets, part, lora_target_name(target)));
    LoraAdapter& m = c.weights.matrices.emplace_back();
    if (a == parameters.end()) continue;
    const std::string b = a->first.substr(0, a->first.size() - 13) + "lora_B.weight";
    m.a = transposed(c, a->second, numbers), m.b = transposed(c, parameters.at(b), numbers);
    m.rank = static_cast<int32_t>(lora.rank), m.scale = static_cast<float>(lora.scale()), m.numbers = numbers;
  }
  return c;
}

// A rank and targets of its own: all layers, some kinds of them, or single ones.
inline AdapterCase random_adapter(const Transformer& base, Draws& draws) {
  const int64_t ranks[] = {1, 2, 4, 5, 8, 16, 19};
  LoraConfig lora;
  lora.rank = ranks[draws.below(7)], lora.alpha = 1 + draws.below(16), lora.rslora = draws.below(2) == 0;
  const std::vector<std::string> all = lora.targets;
  if (draws.below(3) > 0) std::erase_if(lora.targets, [&](const std::string&) { return draws.below(2) == 0; });
  if (draws.below(4) == 0) lora.targets = {fmt::format("layers.{}.mlp.up_proj", draws.below(static_cast<uint32_t>(base.config().num_layers)))};
  if (lora.targets.empty()) lora.targets = {all[draws.below(7)]};
  return adapter_case(base, lora, draws, 0.3f, draws.below(3) == 0 ? LoraNumbers::kBfloat16 : LoraNumbers::kFloat);
}

inline std::vector<int32_t> random_tokens(int64_t length, const TransformerConfig& c, Draws& draws) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(c.vocab_size))));
  return ids;
}

// Bit for bit.
inline void expect_same(const Completion& a, const Completion& b, const std::string& what) {
  ASSERT_EQ(a.sample, b.sample) << what;
  ASSERT_EQ(a.tokens, b.tokens) << what;
  ASSERT_EQ(a.logprobs, b.logprobs) << what;
  ASSERT_EQ(a.finish, b.finish) << what;
}
inline void expect_equal(const std::vector<Completion>& a, const std::vector<Completion>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].request, b[i].request) << what;
    expect_same(a[i], b[i], fmt::format("{}, completion {}", what, i));
  }
}

// [tokens, vocab]: log-probabilities of the whole model at the places of the completion.
inline at::Tensor reference(const Transformer& model, const std::vector<int32_t>& prompt, const std::vector<int32_t>& tokens) {
  std::vector<int64_t> ids(prompt.begin(), prompt.end());
  ids.insert(ids.end(), tokens.begin(), tokens.end() - 1);
  Trie trie;
  trie.add(-1, static_cast<int64_t>(ids.size()));
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(at::tensor(ids, at::kLong), trie);
  return at::log_softmax(logits.narrow(0, static_cast<int64_t>(prompt.size()) - 1, static_cast<int64_t>(tokens.size())).to(at::kDouble), -1);
}

}  // namespace trimtab
