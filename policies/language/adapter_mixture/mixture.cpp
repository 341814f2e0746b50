#include "policies/language/adapter_mixture/mixture.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/composed.h"
#include "policies/language/ops/norm_linear.h"
#include "policies/language/ops/swiglu_linear.h"
#include "policies/language/rotary_rows.h"

namespace trimtab {
namespace {

// Not at once: a batch holds keys and values of all its sequences up to the longest.
constexpr size_t kSequencesAtOnce = 128;

std::vector<at::Tensor> defined(std::vector<at::Tensor> tensors) { return tensors[0].defined() ? tensors : std::vector<at::Tensor>{}; }

std::string layer_name(int64_t i) { return fmt::format("model.layers.{}.", i); }

std::vector<Transformer> replicas(std::span<const Transformer> models) {
  std::vector<Transformer> out;
  for (const Transformer& m : models) out.push_back(m.replica());
  return out;
}

}  // namespace

AdapterMixture::AdapterMixture(const Transformer& base, std::span<const Transformer> adapters, const TsallisRouting& routing)
    : config_(base.config()), routing_(routing), adapters_(replicas(adapters)), frequencies_(rope_frequencies(config_.rope, config_.head_dim)) {
  if (adapters.empty()) throw ConfigError("a mixture needs an adapter at least: name folders of adapters of the base model");
  TT_CHECK(!base.adapter(), "the base of a mixture has an adapter of its own");
  TT_CHECK(!config_.diffusion.enabled(), "a mixture is of causal models");
  for (const auto& [name, value] : base.parameters()) base_.emplace(name, value.detach());
  head_ = base.head().detach();
  for (const Transformer& adapter : adapters_) {
    TT_CHECK(adapter.adapter() && adapter.flat().is_alias_of(base.flat()), "an adapter of another base");
    for (const std::string& layer : adapted_layers(*adapter.adapter(), config_)) {
      if (layer == "lm_head")
        throw ConfigError("an adapter of a mixture changes lm_head, which no router belongs to: train it without that target");
      if (!beside_.contains(layer)) put_beside(layer);
    }
  }
  routers_ = at::zeros({config_.num_layers, experts(), config_.hidden_size + 1}, base.flat().options()).set_requires_grad(true);
}

// Copies what the adapters have for one linear layer behind one another.
void AdapterMixture::put_beside(const std::string& layer) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> a, b;
  std::vector<int64_t> expert;
  for (int64_t i = 0; i < experts(); ++i) {
    const auto& parameters = adapters_[i].trainable_parameters();
    const auto it = parameters.find(layer + ".lora_A.weight");
    if (it == parameters.end()) continue;
    a.push_back(it->second);
    b.push_back(adapters_[i].adapter()->scale() * parameters.at(layer + ".lora_B.weight"));
    expert.insert(expert.end(), it->second.size(0), i);
  }
  beside_.emplace(layer, Beside{at::cat(a), at::cat(b, 1), at::tensor(expert, at::kLong)});
}

AdapterMixture AdapterMixture::with_fixed_weights(const std::vector<double>& weights) const {
  TT_CHECK_EQ(static_cast<int64_t>(weights.size()), experts());
  AdapterMixture out = *this;
  out.fixed_ = at::tensor(weights, at::kDouble).to(routers_.scalar_type());
  return out;
}

at::Tensor AdapterMixture::bias(const std::string& layer) const {
  const auto it = base_.find(layer + ".bias");
  return it == base_.end() ? at::Tensor() : it->second;
}

// The weights [T, N] of the adapters in decoder layer i, for rows `normed` [T, hidden].
at::Tensor AdapterMixture::route_layer(int64_t i, const at::Tensor& normed, MixturePass& pass) const {
  if (fixed_.defined()) return fixed_.expand({normed.size(0), experts()});
  const at::Tensor router = routers_[i];
  const at::Tensor logits = at::addmm(router.select(1, config_.hidden_size), normed, router.narrow(1, 0, config_.hidden_size).t());
  pass.probabilities.push_back(at::softmax(logits, 1));
  const RoutedRows routed = route_rows(pass.probabilities.back(), routing_);
  pass.weights.push_back(routed.weights);
  pass.soft += routed.soft;
  return routed.weights;
}

// y + what the adapters make of x, for linear layers whose outputs lie beside one another in y.
at::Tensor AdapterMixture::add_adapters(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, std::initializer_list<std::string> layers) const {
  std::vector<at::Tensor> parts;
  bool any = false;
  for (const std::string& layer : layers) {
    const auto it = beside_.find(layer);
    any = any || it != beside_.end();
    parts.push_back(it == beside_.end() ? at::zeros({x.size(0), weight(layer + ".weight").size(0)}, x.options())
                                        : at::mm(at::mm(x, it->second.a.t()) * w.index_select(1, it->second.expert), it->second.b.t()));
  }
  if (!any) return y;
  return y + (parts.size() == 1 ? parts[0] : at::cat(parts, 1));
}

at::Tensor AdapterMixture::decoder_layer(int64_t i, const at::Tensor& x, const Attend& attend, MixturePass& pass) const {
  const TransformerConfig& c = config_;
  const std::string layer = layer_name(i), self = layer + "self_attn.", mlp = layer + "mlp.";
  const at::Tensor &input_norm = weight(layer + "input_layernorm.weight"), &post_norm = weight(layer + "post_attention_layernorm.weight");
  const at::Tensor normed = rms_norm_rows(x, input_norm, c.norm_eps), w = route_layer(i, normed, pass);
  const auto [plain_qkv, before] = norm_linear(x, input_norm, c.norm_eps, {weight(self + "q_proj.weight"), weight(self + "k_proj.weight"), weight(self + "v_proj.weight")},
                                               defined({bias(self + "q_proj"), bias(self + "k_proj"), bias(self + "v_proj")}));
  at::Tensor qkv = add_adapters(plain_qkv, normed, w, {self + "q_proj", self + "k_proj", self + "v_proj"});
  if (c.qk_norm) qkv = norm_heads(qkv, weight(self + "q_norm.weight"), weight(self + "k_norm.weight"), c.num_heads, c.num_kv_heads, c.norm_eps);
  const at::Tensor mixed = attend(i, qkv), o_bias = bias(self + "o_proj");
  at::Tensor y = at::addmm(before, mixed, weight(self + "o_proj.weight").t());
  y = add_adapters(o_bias.defined() ? y + o_bias : y, mixed, w, {self + "o_proj"});
  const auto [plain_gate_up, middle] = norm_linear(y, post_norm, c.norm_eps, {weight(mlp + "gate_proj.weight"), weight(mlp + "up_proj.weight")},
                                                   defined({bias(mlp + "gate_proj"), bias(mlp + "up_proj")}));
  const at::Tensor gate_up = add_adapters(plain_gate_up, rms_norm_rows(y, post_norm, c.norm_eps), w, {mlp + "gate_proj", mlp + "up_proj"});
  const at::Tensor out = swiglu_linear(gate_up, weight(mlp + "down_proj.weight"), bias(mlp + "down_proj"), middle);
  return beside_.contains(mlp + "down_proj") ? add_adapters(out, composed_swiglu(gate_up), w, {mlp + "down_proj"}) : out;
}

MixturePass AdapterMixture::pass_over(const at::Tensor& tokens, const Attend& attend) const {
  MixturePass pass;
  at::Tensor x = at::embedding(weight("model.embed_tokens.weight"), tokens);
  for (int64_t i = 0; i < config_.num_layers; ++i) x = decoder_layer(i, x, attend, pass);
  pass.hidden = rms_norm_rows(x, weight("model.norm.weight"), config_.norm_eps);
  return pass;
}

MixturePass AdapterMixture::forward(const at::Tensor& tokens, const Trie& trie) const {
  TT_CHECK_EQ(tokens.size(0), trie.num_rows);
  const RotaryRows turn = rotary_rows(frequencies_, trie.positions(), routers_.options().requires_grad(false));
  const RotaryAttention heads{.heads = config_.num_heads, .kv_heads = config_.num_kv_heads};
  return pass_over(tokens, [&](int64_t, const at::Tensor& qkv) { return rotary_attention_trie(qkv, turn.cosine, turn.sine, trie, heads); });
}

at::Tensor AdapterMixture::router_loss(const MixturePass& pass, const RouterLossWeights& weights) const {
  at::Tensor sum = at::zeros({}, routers_.options().requires_grad(false));
  for (const at::Tensor& p : pass.probabilities)
    sum = sum + weights.entropy * tsallis_entropy(p, routing_.q).mean() + weights.balance * balance_loss(p);
  return sum / static_cast<double>(config_.num_layers);
}

// Logits [B, vocab] after one token of each of B sequences, all at `position`; keys and values [B, capacity, kv heads, D] of each layer.
at::Tensor AdapterMixture::step(const at::Tensor& tokens, int64_t position, std::vector<at::Tensor>& keys, std::vector<at::Tensor>& values) const {
  const int64_t b = tokens.size(0), h = config_.num_heads, k = config_.num_kv_heads, d = config_.head_dim;
  const RotaryRows turn = rotary_rows(frequencies_, std::vector<int64_t>(b, position), routers_.options().requires_grad(false));
  const MixturePass pass = pass_over(tokens, [&](int64_t i, const at::Tensor& rows) {
    const at::Tensor qkv = rows.view({b, h + 2 * k, d});
    const at::Tensor q = composed_rotary(qkv.narrow(1, 0, h), turn.cosine, turn.sine).view({b, k, h / k, d});
    keys[i].select(1, position).copy_(composed_rotary(qkv.narrow(1, h, k), turn.cosine, turn.sine));
    values[i].select(1, position).copy_(qkv.narrow(1, h + k, k));
    const at::Tensor past_keys = keys[i].narrow(1, 0, position + 1).permute({0, 2, 3, 1});       // [B, kv heads, D, t]
    const at::Tensor past_values = values[i].narrow(1, 0, position + 1).permute({0, 2, 1, 3});   // [B, kv heads, t, D]
    const at::Tensor scores = at::softmax(at::matmul(q, past_keys) / std::sqrt(static_cast<double>(d)), -1);
    return at::matmul(scores, past_values).reshape({b, h * d});
  });
  return at::mm(pass.hidden, head_.t());
}

// All sequences of a batch begin at position 0 and advance together: while some are in their prompts, others are answering already.
void AdapterMixture::complete_batch(std::span<const std::vector<int32_t>> prompts, int64_t max_tokens, const Over& over,
                                    std::span<std::vector<int32_t>> replies) const {
  int64_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, static_cast<int64_t>(prompt.size()));
  const auto rows = static_cast<int64_t>(prompts.size());
  const at::Tensor empty = at::zeros({rows, longest + max_tokens, config_.num_kv_heads, config_.head_dim}, base_.at("model.norm.weight").options());
  std::vector<at::Tensor> keys, values;
  for (int64_t i = 0; i < config_.num_layers; ++i) keys.push_back(empty.clone()), values.push_back(empty.clone());
  std::vector<int64_t> tokens(prompts.size());
  std::vector<char> done(prompts.size());
  const auto all_done = [&] { return std::all_of(done.begin(), done.end(), [](char x) { return x != 0; }); };
  for (size_t t = 0; t < static_cast<size_t>(longest + max_tokens) && !all_done(); ++t) {
    for (size_t s = 0; s < prompts.size(); ++s)   // one that is done repeats its last token: its row stays in the batch
      tokens[s] = t < prompts[s].size() ? prompts[s][t] : replies[s].back();
    const at::Tensor next = step(at::tensor(tokens, at::kLong), static_cast<int64_t>(t), keys, values).argmax(1);
    for (size_t s = 0; s < prompts.size(); ++s) {
      if (done[s] || t + 1 < prompts[s].size()) continue;
      replies[s].push_back(static_cast<int32_t>(next.data_ptr<int64_t>()[s]));
      done[s] = over(s, replies[s]) || static_cast<int64_t>(replies[s].size()) >= max_tokens;
    }
  }
}

std::vector<std::vector<int32_t>> AdapterMixture::complete(std::span<const std::vector<int32_t>> prompts, int64_t max_tokens, const Over& over) const {
  const at::NoGradGuard no_grad;
  TT_CHECK_GE(max_tokens, 1);
  for (const auto& prompt : prompts) TT_CHECK(!prompt.empty(), "a prompt needs a token");
  std::vector<std::vector<int32_t>> replies(prompts.size());
  for (size_t first = 0; first < prompts.size(); first += kSequencesAtOnce) {
    const size_t count = std::min(kSequencesAtOnce, prompts.size() - first);
    complete_batch(prompts.subspan(first, count), max_tokens, [&](size_t s, std::span<const int32_t> reply) { return over(first + s, reply); },
                   std::span(replies).subspan(first, count));
  }
  return replies;
}

}  // namespace trimtab
