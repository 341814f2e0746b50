// Adapters: what they add, their gradients and their folders; against PEFT itself in tests/oracle.
#include "policies/language/lora.h"

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
#include "policies/language/adapter_base.h"
#include "policies/language/ops/linear_logprob.h"
#include "policies/language/test_support.h"
#include "policies/language/transformer.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

LoraConfig config_of(std::vector<std::string> targets, bool rslora = false) {
  return {.rank = 3, .alpha = 5, .rslora = rslora, .targets = std::move(targets), .base_model = "models/base"};
}

// An adapter that changes something: B is zero in a new one.
Transformer adapted(const Transformer& base, const LoraConfig& lora) {
  Transformer out = base.with_adapter(lora, test_seed());
  Draws draws(test_seed(), Stream::kTest, 21);
  for (int64_t i = 0; i < out.trainable().numel(); ++i) out.trainable()[i] = 0.3 * draws.normal();
  return out;
}

// A model with the adapter's merged weights as its own.
Transformer merged_model(const Transformer& model) {
  Transformer out(model.config(), 1, model.flat().scalar_type());
  const at::NoGradGuard no_grad;
  for (const auto& [name, value] : model.merged()) out.parameters().at(name).copy_(value);
  return out;
}

struct Sequence {
  Trie trie;
  at::Tensor tokens;
};
Sequence sequence(int64_t length, uint32_t stream = 22) {
  Draws draws(test_seed(), Stream::kTest, stream);
  Sequence out;
  out.trie.add(-1, length);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(draws.below(23));
  out.tokens = at::tensor(ids, at::kLong);
  return out;
}

at::Tensor loss_of(const Transformer& m, const Sequence& s) {
  const int64_t n = s.tokens.numel() - 1;
  const auto [logp, entropy] = linear_logprob(m.hidden(s.tokens, s.trie).narrow(0, 0, n), m.head(), s.tokens.narrow(0, 1, n));
  return (logp * at::linspace(-1, 2, n, m.flat().options())).sum() + 0.1 * entropy.sum();
}

const std::vector<std::vector<std::string>> kTargets = {
    {"q_proj", "v_proj"}, {"o_proj"}, {"down_proj"}, {"up_proj"}, {"layers.1.mlp.gate_proj", "layers.0.self_attn.k_proj"},
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};

TEST(Lora, EqualsTheMergedModelAndItsGradientsFollowFromThose) {
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (std::vector<std::string> targets : kTargets) {
      if (std::string(family) != "qwen2") targets.push_back("lm_head");   // tied there
      SCOPED_TRACE(fmt::format("{} {}", family, targets[0]));
      const Transformer base(tiny(family), 1, at::kDouble, {.weight = 0.3, .embedding = 0.3});
      const Transformer model = adapted(base, config_of(targets, targets.size() % 2 == 0)), merged = merged_model(model);
      const Sequence s = sequence(17);
      const at::Tensor ours = loss_of(model, s), theirs = loss_of(merged, s);
      EXPECT_NEAR(ours.item<double>(), theirs.item<double>(), 1e-11 * (1 + std::abs(theirs.item<double>())));
      ours.backward(), theirs.backward();
      // W' = W + scale B A: dA = scale B^T dW', dB = scale dW' A^T.
      for (const std::string& layer : adapted_layers(*model.adapter(), model.config())) {
        const at::Tensor dw = model.adapter()->scale() * merged.parameters().at(layer + ".weight").grad();
        const at::Tensor &a = model.trainable_parameters().at(layer + ".lora_A.weight"), &b = model.trainable_parameters().at(layer + ".lora_B.weight");
        EXPECT_LE((a.grad() - at::mm(b.detach().t(), dw)).abs().max().item<double>(), 1e-11 * (1 + a.grad().abs().max().item<double>())) << layer;
        EXPECT_LE((b.grad() - at::mm(dw, a.detach().t())).abs().max().item<double>(), 1e-11 * (1 + b.grad().abs().max().item<double>())) << layer;
        EXPECT_GT(a.grad().abs().max().item<double>(), 0) << layer;
      }
    }
}

TEST(Lora, ANewAdapterChangesNothingAndTheBaseIsFrozen) {
  const Transformer base(tiny("llama"), 1), model = base.with_adapter(config_of({"q_proj", "down_proj"}), 7);
  const Sequence s = sequence(9);
  EXPECT_TRUE(model.logits(s.tokens, s.trie).equal(base.logits(s.tokens, s.trie)));
  EXPECT_EQ(model.trainable().numel(), 2 * 3 * (16 + 32 + 24 + 16));
  EXPECT_EQ(model.flat_gradient().numel(), model.trainable().numel());
  loss_of(model, s).backward();
  for (const auto& [name, p] : model.parameters()) EXPECT_FALSE(p.requires_grad() || p.grad().defined()) << name;
  for (const auto& [name, p] : model.trainable_parameters()) {
    EXPECT_EQ(p.abs().max().item<double>() > 0, name.ends_with("lora_A.weight")) << name;
    EXPECT_EQ(p.grad().abs().max().item<double>() > 0, name.ends_with("lora_B.weight")) << name;   // dA = scale B^T dW = 0 at first
  }
  EXPECT_TRUE(base.with_adapter(config_of({"q_proj", "down_proj"}), 7).trainable().equal(model.trainable()));
  EXPECT_FALSE(base.with_adapter(config_of({"q_proj", "down_proj"}), 8).trainable().equal(model.trainable()));
}

TEST(Lora, ReplicasShareTheAdapterAndAddGradientsOfTheirOwn) {
  const Transformer model = adapted(Transformer(tiny("llama"), 1, at::kDouble), config_of({"v_proj", "up_proj"}));
  const Transformer replica = model.replica();
  const Sequence s = sequence(9);
  loss_of(replica, s).backward();
  EXPECT_EQ(model.flat_gradient().abs().max().item<double>(), 0);
  EXPECT_GT(replica.flat_gradient().abs().max().item<double>(), 0);
  model.trainable().mul_(2);
  EXPECT_TRUE(replica.trainable().equal(model.trainable()));
}

TEST(Lora, FoldersAreReadAsTheyWereWritten) {
  const TemporaryFolder root;
  for (const bool rslora : {false, true}) {
    const Transformer base(tiny("llama"), 1);
    const Transformer model = adapted(base, config_of({"q_proj", "layers.1.mlp.down_proj", "lm_head"}, rslora));
    model.write_adapter(root.path());
    const Transformer again = base.with_adapter(root.path());
    EXPECT_TRUE(again.trainable().equal(model.trainable()));
    EXPECT_EQ(again.adapter()->targets, model.adapter()->targets);
    EXPECT_EQ(again.adapter()->scale(), model.adapter()->scale());
    EXPECT_EQ(again.adapter()->base_model, "models/base");
    model.write(root.path() / "merged");   // W + scale B A
    const Sequence s = sequence(9);
    EXPECT_LE((Transformer::read(root.path() / "merged").logits(s.tokens, s.trie) - model.logits(s.tokens, s.trie)).abs().max().item<double>(), 1e-5);
  }
}

std::string refusal(const Transformer& base, const std::filesystem::path& folder) {
  try {
    base.with_adapter(folder);
  } catch (const DataError& e) {
    return e.what();
  }
  return "";
}

class AdapterFolder {
 public:
  AdapterFolder() : base_(tiny("llama"), 1) { restore(); }
  void restore() {
    std::filesystem::remove_all(folder());
    adapted(base_, config_of({"q_proj", "down_proj"})).write_adapter(folder());
  }
  std::filesystem::path folder() const { return root_.path() / "adapter"; }
  std::string refusal() const { return trimtab::refusal(base_, folder()); }
  // What is said about a folder that was right but for this.
  std::string with_key(const std::string& key, const nlohmann::json& value) {
    restore();
    nlohmann::json json = nlohmann::json::parse(read_file(folder() / "adapter_config.json"));
    json[key] = value;
    std::ofstream(folder() / "adapter_config.json") << json.dump();
    return refusal();
  }
  std::string with_tensors(const std::function<void(TensorFile&)>& change) {
    restore();
    TensorFile file = read_safetensors(folder() / "adapter_model.safetensors");
    change(file);
    write_safetensors(folder() / "adapter_model.safetensors", file);
    return refusal();
  }
  const Transformer& base() const { return base_; }

 private:
  const TemporaryFolder root_;
  const Transformer base_;
};

void expect_says(const std::string& message, std::initializer_list<const char*> words) {
  for (const char* word : words) EXPECT_NE(message.find(word), std::string::npos) << "'" << message << "' lacks " << word;
}

TEST(Lora, WhatIsNotBuiltIsRefusedByName) {
  AdapterFolder f;
  EXPECT_EQ(f.refusal(), "");
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"peft_type", "IA3"}, {"task_type", "SEQ_CLS"}, {"bias", "all"}, {"use_dora", true}, {"modules_to_save", {"lm_head"}},
           {"rank_pattern", {{"q_proj", 8}}}, {"alpha_pattern", {{"q_proj", 8}}}, {"layers_to_transform", {0}}, {"fan_in_fan_out", true},
           {"target_parameters", {"x"}}, {"exclude_modules", {"up_proj"}}, {"init_lora_weights", "pissa"}, {"some_new_kind", 1},
           {"lora_bias", true}, {"r", 0}, {"r", "8"}, {"lora_alpha", "many"}, {"target_modules", ".*proj"}, {"target_modules", nlohmann::json::array()},
           {"use_rslora", "yes"}})
    expect_says(f.with_key(key, value), {"adapter_config.json", key.c_str(), value.is_string() ? value.get<std::string>().c_str() : ""});
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"task_type", nullptr}, {"layers_to_transform", nullptr}, {"qalora_group_size", 16}, {"loftq_config", nlohmann::json::object()},
           {"lora_dropout", 0.1}, {"init_lora_weights", "gaussian"}, {"target_modules", {"down_proj", "q_proj", "query"}}})
    EXPECT_EQ(f.with_key(key, value), "") << key;
  f.with_key("lora_dropout", 0.1);
  std::string text = read_file(f.folder() / "adapter_config.json");
  text.replace(text.find("\"inference_mode\":true"), 21, "\"inference_mode\":false");
  std::ofstream(f.folder() / "adapter_config.json") << text;
  expect_says(f.refusal(), {"lora_dropout", "0.1", "inference_mode"});
}

TEST(Lora, AdaptersThatCannotBeRightAreRefusedWithTheCure) {
  AdapterFolder f;
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  expect_says(f.with_key("r", 4), {"shape", "rank 4", "another model"});
  expect_says(f.with_key("r", 1 << 20), {"do not fit"});
  expect_says(f.with_key("target_modules", {"c_attn"}), {"c_attn", "another model"});
  expect_says(f.with_key("target_modules", {"q_proj", "down_proj", "k_proj"}), {"k_proj", "missing"});
  expect_says(f.with_key("target_modules", {"q_proj"}), {"down_proj", "another model"});
  expect_says(f.with_tensors([&](TensorFile& t) { t.tensors.erase(q); }), {q.c_str(), "missing"});
  expect_says(f.with_tensors([&](TensorFile& t) { reinterpret_cast<float*>(t.tensors.at(q).bytes.data())[5] = NAN; }), {q.c_str(), "finite"});
  expect_says(f.with_tensors([&](TensorFile& t) { t.tensors["base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"] = t.tensors.at(q); }),
              {"layers.2", "another model"});
  expect_says(f.with_tensors([&](TensorFile& t) { t.tensors["model.layers.0.self_attn.q_proj.lora_A.weight"] = t.tensors.at(q); }), {"twice"});
  expect_says(f.with_tensors([&](TensorFile& t) { t.tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = t.tensors.at(q); }), {"embed", "not built"});
  expect_says(f.with_tensors([&](TensorFile& t) { t.tensors[q].dtype = "I32"; }), {q.c_str(), "I32"});
  f.restore(), expect_says(refusal(Transformer(tiny("llama"), 1).with_adapter(f.folder()), f.folder() / "none"), {"adapter_config.json"});
  f.restore(), std::filesystem::rename(f.folder() / "adapter_model.safetensors", f.folder() / "adapter_model.bin"), expect_says(f.refusal(), {"adapter_model.bin", "safetensors"});
  f.restore(), std::ofstream(f.folder() / "adapter_config.json") << "{", expect_says(f.refusal(), {"adapter_config.json", "JSON"});
  f.restore(), std::filesystem::resize_file(f.folder() / "adapter_model.safetensors", 300), expect_says(f.refusal(), {"adapter_model.safetensors"});
  TransformerConfig other = tiny("llama");
  other.hidden_size = 24;
  f.restore(), expect_says(refusal(Transformer(other, 1), f.folder()), {"shape", "another model"});
}

TEST(Lora, TheWeightsAnAdapterWasTrainedBesideAreKnownAgain) {
  AdapterFolder f;
  const Transformer other(tiny("llama"), 2);   // of the same shapes
  EXPECT_NE(fingerprint_of(other), fingerprint_of(f.base()));
  expect_says(refusal(other, f.folder()), {"adapter_model.safetensors", "\"models/base\"", "trained beside", fingerprint_of(other).c_str(), fingerprint_of(f.base()).c_str()});
  EXPECT_EQ(refusal(f.base().copy_as(at::kBFloat16), f.folder()), "");   // saved again in 16 bits
  EXPECT_EQ(fingerprint_of(adapted(f.base(), config_of({"q_proj"}))), fingerprint_of(f.base()));
  const auto of_model = [&](const Transformer& model, const std::string& name) -> std::string {
    try {
      read_adapter(model, name, f.folder());
    } catch (const DataError& e) {
      return e.what();
    }
    return "";
  };
  expect_says(of_model(other, "runs/other"), {"models/base", "runs/other"});
  EXPECT_EQ(of_model(f.base(), "models/other"), "");   // called otherwise, the same weights
  EXPECT_EQ(f.with_tensors([](TensorFile& t) { t.metadata.erase(kBaseFingerprint); }), "");
  EXPECT_EQ(refusal(other, f.folder()), "");            // nothing tells
  EXPECT_EQ(of_model(other, "/runs/other"), "");
  expect_says(of_model(other, "models/other"), {"adapter_config.json", "models/base", "models/other"});
}

TEST(Lora, OnlyLinearLayersOfTheModelCanBeTargets) {
  const auto message = [](const Transformer& base, const std::string& target) -> std::string {
    try {
      base.with_adapter(config_of({"q_proj", target}), 1);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  };
  const Transformer untied(tiny("llama"), 1), tied(tiny("qwen2"), 1);
  expect_says(message(untied, "qproj"), {"qproj", "q_proj", "lm_head"});
  expect_says(message(untied, "embed_tokens"), {"embed_tokens", "linear"});
  expect_says(message(untied, "roj"), {"roj"});
  expect_says(message(untied, "input_layernorm"), {"input_layernorm"});
  expect_says(message(tied, "lm_head"), {"lm_head"});
  EXPECT_EQ(message(untied, "lm_head"), "");
}

}  // namespace
}  // namespace trimtab
