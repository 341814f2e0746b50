// Masked diffusion models: what config.json says of them, conversion from causal ones, and folders of LLaDA's and Dream's shape.
#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "policies/language/floats.h"
#include "policies/language/test_support.h"
#include "policies/language/transformer.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

std::string refusal(const std::filesystem::path& folder) {
  try {
    TransformerConfig::read(folder);
  } catch (const DataError& e) {
    return e.what();
  }
  return "";
}

TEST(DiffusionConfig, IsWrittenAndReadBack) {
  const TemporaryFolder root;
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (const DiffusionConfig& d : {DiffusionConfig{}, DiffusionConfig{.mask_id = 0}, DiffusionConfig{.mask_id = 22, .shifted = true, .block = 4}}) {
      TransformerConfig c = tiny(family);
      c.diffusion = d;
      Transformer(c, 1).write(root.path() / family);
      EXPECT_EQ(Transformer::read(root.path() / family).config().diffusion, d);
      EXPECT_EQ(TransformerConfig::read(root.path() / family).family, family);
    }
}

TEST(DiffusionConfig, WhatCannotBeIsRefusedWithTheCure) {
  const TemporaryFolder root;
  TransformerConfig c = tiny("llama");
  c.diffusion = {.mask_id = 22, .block = 4};
  const Json good = Json::parse(c.json());
  const auto expect = [&](const char* what, const std::function<void(Json&)>& change, std::initializer_list<const char*> words) {
    Json j = good;
    change(j);
    std::ofstream(root.path() / "config.json") << j.dump();
    const std::string message = refusal(root.path());
    for (const char* word : words) EXPECT_NE(message.find(word), std::string::npos) << what << ": " << message << " lacks " << word;
  };
  std::ofstream(root.path() / "config.json") << good.dump();
  EXPECT_EQ(refusal(root.path()), "");
  expect("outside", [](Json& j) { j["mask_token_id"] = 23; }, {"config.json", "mask_token_id 23", "23", "tokenizer's mask token"});
  expect("negative", [](Json& j) { j["mask_token_id"] = -1; }, {"mask_token_id -1"});
  expect("no mask", [](Json& j) { j.erase("mask_token_id"); }, {"mask_token_id", "tokenizer's mask token"});
  expect("no diffusion", [](Json& j) { j.erase("diffusion"); }, {"mask_token_id", "add diffusion"});
  expect("unknown key", [](Json& j) { j["diffusion"]["steps"] = 3; }, {"steps", "shifted and block"});
  expect("block", [](Json& j) { j["diffusion"]["block"] = -2; }, {"block", "-2"});
  expect("shifted", [](Json& j) { j["diffusion"]["shifted"] = 1; }, {"shifted", "true or false"});
}

TEST(Conversion, KeepsTheWeightsAndAddsOneRow) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {   // qwen2: one matrix for embeddings and head
    SCOPED_TRACE(family);
    const Transformer causal(tiny(family), 7, at::kDouble);
    const Transformer converted = causal.as_diffusion({.mask_id = 23, .shifted = true});
    EXPECT_EQ(converted.config().vocab_size, 24);
    EXPECT_EQ(converted.config().diffusion, (DiffusionConfig{.mask_id = 23, .shifted = true}));
    for (const auto& [name, from] : causal.parameters()) {
      const at::Tensor& to = converted.parameters().at(name);
      const bool table = name == "model.embed_tokens.weight" || name == "lm_head.weight";
      EXPECT_TRUE(to.narrow(0, 0, from.size(0)).equal(from)) << name;
      EXPECT_EQ(to.size(0), from.size(0) + (table ? 1 : 0)) << name;
      if (table) {
        EXPECT_LE((to[23] - from.sum(0) / 23).abs().max().item<double>(), 1e-15) << name;
      }
    }
    // With the causal mask it is still the model it was.
    Trie trie;
    trie.add(-1, 6);
    const at::Tensor tokens = at::tensor({3, 1, 4, 1, 5, 9}, at::kLong);
    EXPECT_LE((converted.logits(tokens, trie).narrow(1, 0, 23) - causal.logits(tokens, trie)).abs().max().item<double>(), 1e-12);
    EXPECT_EQ(causal.as_diffusion({.mask_id = 5}).num_parameters(), causal.num_parameters());   // a token it has
    EXPECT_FALSE(causal.as_diffusion({.mask_id = 5}).flat().is_alias_of(causal.flat()));
  }
}

// ---- folders as LLaDA and Dream have them ----

struct Shape {
  int64_t vocab = 29, width = 16, layers = 2, heads = 4, kv_heads = 2, inner = 24;
  double theta = 5000, epsilon = 1e-5;
  int64_t head_size() const { return width / heads; }
};
struct Names {
  std::string embedding, norm, head, layer, input_norm, post_norm, q, k, v, o, gate, up, down;
};
const Names kLlada{"model.transformer.wte", "model.transformer.ln_f", "model.transformer.ff_out", "model.transformer.blocks.", "attn_norm", "ff_norm",
                   "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"};
const Names kDream{"model.embed_tokens", "model.norm", "lm_head", "model.layers.", "input_layernorm", "post_attention_layernorm", "self_attn.q_proj",
                   "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
using Weights = std::map<std::string, at::Tensor>;

Weights random_weights(const Names& n, const Shape& s, bool bias, bool tied) {
  Draws draws(test_seed(), Stream::kTest, 71);
  Weights out;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    at::Tensor x = at::empty(shape, at::kFloat);
    for (int64_t i = 0; i < x.numel(); ++i) x.data_ptr<float>()[i] = 0.4f * draws.normal() + (shape.size() == 1 ? 1.0f : 0.0f);
    out[name] = x;
  };
  const int64_t kv = s.kv_heads * s.head_size();
  add(n.embedding + ".weight", {s.vocab, s.width}), add(n.norm + ".weight", {s.width});
  if (!tied) add(n.head + ".weight", {s.vocab, s.width});
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string l = n.layer + std::to_string(i) + ".";
    add(l + n.input_norm + ".weight", {s.width}), add(l + n.post_norm + ".weight", {s.width});
    for (const auto& [name, to] : std::map<std::string, int64_t>{{n.q, s.width}, {n.k, kv}, {n.v, kv}}) {
      add(l + name + ".weight", {to, s.width});
      if (bias) add(l + name + ".bias", {to});
    }
    add(l + n.o + ".weight", {s.width, s.width});
    add(l + n.gate + ".weight", {s.inner, s.width}), add(l + n.up + ".weight", {s.inner, s.width}), add(l + n.down + ".weight", {s.width, s.inner});
  }
  return out;
}

// The bidirectional model by its definition, in double, in the file's own names: [T, vocab].
at::Tensor reference_logits(const Weights& weights, const Names& n, const Shape& s, const at::Tensor& tokens) {
  const auto get = [&](const std::string& name) { return weights.at(name).to(at::kDouble); };
  const auto norm = [&](const at::Tensor& x, const std::string& name) { return x / (x.square().mean(-1, true) + s.epsilon).sqrt() * get(name + ".weight"); };
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    const at::Tensor y = at::matmul(x, get(name + ".weight").t());
    return weights.contains(name + ".bias") ? y + get(name + ".bias") : y;
  };
  const int64_t size = s.head_size();
  const at::Tensor angle = at::outer(at::arange(tokens.size(0), at::kDouble), at::pow(s.theta, -at::arange(0, size, 2, at::kDouble) / static_cast<double>(size)));
  const auto turn = [&](const at::Tensor& x) {   // [heads, T, size]
    const auto half = x.chunk(2, -1);
    return at::cat({half[0] * angle.cos() - half[1] * angle.sin(), half[1] * angle.cos() + half[0] * angle.sin()}, -1);
  };
  const auto heads = [&](const at::Tensor& x, int64_t count) { return x.view({-1, count, size}).transpose(0, 1); };
  at::Tensor x = get(n.embedding + ".weight").index_select(0, tokens);
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string l = n.layer + std::to_string(i) + ".";
    const at::Tensor h = norm(x, l + n.input_norm);
    const at::Tensor q = turn(heads(linear(h, l + n.q), s.heads)), k = turn(heads(linear(h, l + n.k), s.kv_heads)), v = heads(linear(h, l + n.v), s.kv_heads);
    std::vector<at::Tensor> mixed;
    for (int64_t j = 0; j < s.heads; ++j) {
      const int64_t g = j / (s.heads / s.kv_heads);
      mixed.push_back(at::matmul((at::matmul(q[j], k[g].t()) / std::sqrt(static_cast<double>(size))).softmax(-1), v[g]));
    }
    x = x + linear(at::cat(mixed, -1), l + n.o);
    const at::Tensor f = norm(x, l + n.post_norm);
    x = x + linear(at::silu(linear(f, l + n.gate)) * linear(f, l + n.up), l + n.down);
  }
  const std::string head = weights.contains(n.head + ".weight") ? n.head : n.embedding;
  return at::matmul(norm(x, n.norm), get(head + ".weight").t());
}

void write_folder(const std::filesystem::path& folder, const Json& config, const Weights& weights) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump();
  TensorFile file;
  for (const auto& [name, x] : weights) file.tensors[name] = Tensor::f32(x.sizes().vec(), floats(x));
  write_safetensors(folder / "model.safetensors", file);
}

Json llada_config(const Shape& s, bool tied, bool bias) {
  return {{"model_type", "llada"}, {"architectures", {"LLaDAModelLM"}}, {"d_model", s.width}, {"n_heads", s.heads}, {"n_kv_heads", s.kv_heads},
          {"n_layers", s.layers}, {"mlp_hidden_size", s.inner}, {"mlp_ratio", 4}, {"max_sequence_length", 64}, {"vocab_size", s.vocab - 2}, {"embedding_size", s.vocab},
          {"rope_theta", s.theta}, {"rms_norm_eps", s.epsilon}, {"mask_token_id", 26}, {"eos_token_id", 25}, {"weight_tying", tied}, {"include_qkv_bias", bias},
          {"include_bias", false}, {"block_type", "llama"}, {"activation_type", "silu"}, {"layer_norm_type", "rms"}, {"rope", true}, {"alibi", false},
          {"scale_logits", false}, {"block_group_size", 1}, {"layer_norm_with_affine", true}, {"attention_layer_norm", false}, {"input_emb_norm", false}};
}

// Read, compared with the definition, written in our own form and read again.
void expect_equals_reference(const std::filesystem::path& folder, const Weights& weights, const Names& names, const Shape& s, const DiffusionConfig& diffusion) {
  const Transformer model = Transformer::read(folder);
  EXPECT_EQ(model.config().diffusion, diffusion);
  const at::Tensor tokens = at::tensor({3, 26, 26, 1, 9, 26, 17, 0, 26}, at::kLong);
  Trie trie;
  trie.add(-1, tokens.size(0));
  const at::NoGradGuard no_grad;
  const at::Tensor theirs = reference_logits(weights, names, s, tokens);
  EXPECT_GT(theirs.abs().max().item<double>(), 0.5);
  EXPECT_LE((model.logits(tokens, trie, {.causal = false}) - theirs).abs().max().item<double>(), 1e-4 * (1 + theirs.abs().max().item<double>()));
  EXPECT_GT((model.logits(tokens, trie) - theirs).abs().max().item<double>(), 0.1);   // the causal mask is another model
  model.write(folder / "ours");
  const Transformer again = Transformer::read(folder / "ours");
  EXPECT_EQ(again.config().diffusion, diffusion);
  EXPECT_TRUE(again.logits(tokens, trie, {.causal = false}).equal(model.logits(tokens, trie, {.causal = false})));
}

TEST(Llada, LogitsEqualTheDefinitionFromItsOwnNamesAndKeys) {
  for (const bool tied : {false, true})
    for (const bool bias : {false, true}) {
      SCOPED_TRACE(fmt::format("tied {} bias {}", tied, bias));
      const TemporaryFolder folder;
      const Shape s;
      const Weights weights = random_weights(kLlada, s, bias, tied);
      write_folder(folder.path(), llada_config(s, tied, bias), weights);
      expect_equals_reference(folder.path(), weights, kLlada, s, {.mask_id = 26});
      EXPECT_EQ(TransformerConfig::read(folder.path()).eos_ids, std::vector<int64_t>{25});
      EXPECT_EQ(TransformerConfig::read(folder.path()).max_positions, 64);
    }
}

TEST(Llada, WhatIsNotBuiltIsRefusedByName) {
  const TemporaryFolder folder;
  const auto message = [&](const char* key, const Json& value) {
    Json j = llada_config({}, false, false);
    if (value.is_null()) j.erase(key);
    else j[key] = value;
    std::ofstream(folder.path() / "config.json") << j.dump();
    return refusal(folder.path());
  };
  EXPECT_EQ(message("mlp_ratio", 8), "");
  const std::vector<std::pair<const char*, Json>> bad = {
      {"block_type", "sequential"}, {"activation_type", "swiglu"}, {"activation_type", nullptr}, {"layer_norm_type", "gemma_rms"}, {"rope", false}, {"alibi", true},
      {"include_bias", true}, {"scale_logits", true}, {"attention_layer_norm", true}, {"mask_token_id", nullptr}, {"mask_token_id", 29}, {"d_model", 18}, {"n_layers", nullptr}};
  for (const auto& [key, value] : bad) EXPECT_NE(message(key, value).find(key), std::string::npos) << key << ": " << message(key, value);
}

TEST(Llada, ATensorOfNoPartOfItIsNamed) {
  const TemporaryFolder folder;
  const Shape s;
  Weights weights = random_weights(kLlada, s, false, false);
  weights["model.transformer.blocks.0.scheduler.weight"] = at::zeros({3});
  write_folder(folder.path(), llada_config(s, false, false), weights);
  try {
    Transformer::read(folder.path());
    FAIL() << "read";
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find("blocks.0.scheduler.weight"), std::string::npos) << e.what();
  }
}

TEST(Dream, LogitsEqualTheDefinitionAndAreShifted) {
  const TemporaryFolder folder;
  const Shape s;
  const Weights weights = random_weights(kDream, s, true, false);
  const Json config = {{"model_type", "Dream"}, {"architectures", {"DreamModel"}}, {"hidden_size", s.width}, {"num_attention_heads", s.heads},
                       {"num_key_value_heads", s.kv_heads}, {"num_hidden_layers", s.layers}, {"intermediate_size", s.inner}, {"max_position_embeddings", 64},
                       {"vocab_size", s.vocab}, {"rope_theta", s.theta}, {"rms_norm_eps", s.epsilon}, {"mask_token_id", 26}, {"eos_token_id", 25}, {"pad_token_id", 25},
                       {"hidden_act", "silu"}, {"tie_word_embeddings", false}, {"use_sliding_window", false}, {"sliding_window", 4096}, {"max_window_layers", 28},
                       {"rope_scaling", nullptr}, {"attention_dropout", 0.0}, {"torch_dtype", "bfloat16"}};
  write_folder(folder.path(), config, weights);
  expect_equals_reference(folder.path(), weights, kDream, s, {.mask_id = 26, .shifted = true});
  Json j = config;
  j["mask_token_id"] = 151666;   // the 7B's, in a small vocabulary
  std::ofstream(folder.path() / "config.json") << j.dump();
  EXPECT_NE(refusal(folder.path()).find("151666"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
