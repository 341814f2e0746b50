#include "policies/language/transformer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <memory>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "policies/language/ops/attention_full.h"
#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/composed.h"
#include "policies/language/ops/norm_linear.h"
#include "policies/language/ops/recompute.h"
#include "policies/language/ops/swiglu_linear.h"
#include "policies/language/rotary_rows.h"

namespace trimtab {
namespace {

// x + a weight^T + bias.
at::Tensor add_linear(const at::Tensor& x, const at::Tensor& a, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor out = at::addmm(x, a, weight.t());
  return bias.defined() ? out + bias : out;
}

std::vector<at::Tensor> defined(std::vector<at::Tensor> tensors) { return tensors[0].defined() ? tensors : std::vector<at::Tensor>{}; }

// Leaves by name that share the memory of `flat`; their gradients are views of `gradient`, or they are frozen where that is undefined.
std::map<std::string, at::Tensor> views(const at::Tensor& flat, const std::vector<std::pair<std::string, std::vector<int64_t>>>& shapes,
                                        const at::Tensor& gradient) {
  std::map<std::string, at::Tensor> out;
  int64_t first = 0;
  for (const auto& [name, shape] : shapes) {
    const int64_t n = c10::multiply_integers(shape);
    at::Tensor view = flat.narrow(0, first, n).view(shape).detach();
    if (gradient.defined()) {
      view.set_requires_grad(true);
      view.mutable_grad() = gradient.narrow(0, first, n).view(shape);
    }
    out.emplace(name, view);
    first += n;
  }
  return out;
}

bool ends_residual_branch(const std::string& name) { return name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight"); }

}  // namespace

std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(const TransformerConfig& c) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> out;
  const auto add = [&](std::string name, std::vector<int64_t> shape) { out.emplace_back(std::move(name), std::move(shape)); };
  // Maps that read the same rows lie behind one another, so that they are one matrix (ops/norm_linear.h).
  const auto add_linears = [&](const std::string& where, const std::vector<std::pair<const char*, int64_t>>& to, int64_t from, bool bias) {
    for (const auto& [name, size] : to) add(where + name + ".weight", {size, from});
    for (const auto& [name, size] : to)
      if (bias) add(where + name + ".bias", {size});
  };
  const int64_t d = c.hidden_size, q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  add("model.embed_tokens.weight", {c.vocab_size, d});
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i), attention = layer + "self_attn.";
    add(layer + "input_layernorm.weight", {d});
    add_linears(attention, {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}}, d, c.qkv_bias);
    add_linears(attention, {{"o_proj", d}}, q, c.output_bias);
    if (c.qk_norm) add(attention + "q_norm.weight", {c.head_dim}), add(attention + "k_norm.weight", {c.head_dim});
    add(layer + "post_attention_layernorm.weight", {d});
    add_linears(layer + "mlp.", {{"gate_proj", c.intermediate_size}, {"up_proj", c.intermediate_size}}, d, c.mlp_bias);
    add_linears(layer + "mlp.", {{"down_proj", d}}, c.intermediate_size, c.mlp_bias);
  }
  add("model.norm.weight", {d});
  if (!c.tied_embeddings) add("lm_head.weight", {c.vocab_size, d});
  return out;
}

int64_t count_parameters(const TransformerConfig& config) {
  int64_t total = 0;
  for (const auto& [name, shape] : parameter_shapes(config)) total += c10::multiply_integers(shape);
  return total;
}

Transformer::Transformer(TransformerConfig config, at::Tensor flat, std::optional<LoraConfig> lora, at::Tensor adapter)
    : config_(std::move(config)), lora_(std::move(lora)), flat_(std::move(flat)), adapter_(std::move(adapter)),
      flat_gradient_(at::zeros_like(trainable())) {
  parameters_ = views(flat_, parameter_shapes(config_), lora_ ? at::Tensor() : flat_gradient_);
  if (lora_) adapter_parameters_ = views(adapter_, adapter_shapes(*lora_, config_), flat_gradient_);
  bind_layers();
  frequencies_ = rope_frequencies(config_.rope, config_.head_dim);
}

void Transformer::bind_layers() {
  const auto get = [&](const std::string& name) {
    const auto it = parameters_.find(name);
    return it == parameters_.end() ? at::Tensor() : it->second;
  };
  const auto low_rank = [&](const std::string& name) -> LowRank {
    const auto a = adapter_parameters_.find(name + ".lora_A.weight"), b = adapter_parameters_.find(name + ".lora_B.weight");
    return a == adapter_parameters_.end() ? LowRank{} : LowRank{a->second, b->second};
  };
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const std::string l = fmt::format("model.layers.{}.", i), a = l + "self_attn.", m = l + "mlp.";
    layers_.push_back({.input_norm = get(l + "input_layernorm.weight"), .post_norm = get(l + "post_attention_layernorm.weight"),
                       .q = get(a + "q_proj.weight"), .k = get(a + "k_proj.weight"), .v = get(a + "v_proj.weight"),
                       .o = get(a + "o_proj.weight"), .q_bias = get(a + "q_proj.bias"), .k_bias = get(a + "k_proj.bias"),
                       .v_bias = get(a + "v_proj.bias"), .o_bias = get(a + "o_proj.bias"), .q_norm = get(a + "q_norm.weight"),
                       .k_norm = get(a + "k_norm.weight"), .gate = get(m + "gate_proj.weight"), .up = get(m + "up_proj.weight"),
                       .down = get(m + "down_proj.weight"), .gate_bias = get(m + "gate_proj.bias"), .up_bias = get(m + "up_proj.bias"),
                       .down_bias = get(m + "down_proj.bias"), .lora_q = low_rank(a + "q_proj"), .lora_k = low_rank(a + "k_proj"),
                       .lora_v = low_rank(a + "v_proj"), .lora_o = low_rank(a + "o_proj"), .lora_gate = low_rank(m + "gate_proj"),
                       .lora_up = low_rank(m + "up_proj"), .lora_down = low_rank(m + "down_proj")});
  }
}

Transformer Transformer::replica() const { return Transformer(config_, flat_, lora_, adapter_); }

Transformer Transformer::copy_as(const at::TensorOptions& options) const {
  const auto copied = [&](const at::Tensor& t) { return t.defined() ? t.to(options, false, true) : t; };
  return Transformer(config_, copied(flat_), lora_, copied(adapter_));
}

Transformer Transformer::as_diffusion(const DiffusionConfig& diffusion) const {
  const at::NoGradGuard no_grad;
  TT_CHECK(!lora_, "an adapter goes beside the converted weights");
  TT_CHECK(diffusion.mask_id >= 0 && diffusion.mask_id <= config_.vocab_size, "mask id {}", diffusion.mask_id);
  TransformerConfig config = config_;
  config.diffusion = diffusion;
  config.vocab_size = std::max(config_.vocab_size, diffusion.mask_id + 1);
  Transformer out(config, at::zeros({count_parameters(config)}, flat_.options()));
  for (const auto& [name, to] : out.parameters_) {
    const at::Tensor& from = parameters_.at(name);
    to.narrow(0, 0, from.size(0)).copy_(from);
    if (to.size(0) > from.size(0)) to[from.size(0)].copy_(from.mean(0));
  }
  return out;
}

void Transformer::refresh(const Transformer& from) {
  const at::NoGradGuard no_grad;
  trainable().copy_(from.trainable());
}

Transformer::Transformer(TransformerConfig config, uint64_t seed, at::ScalarType dtype, Initialisation initial)
    : Transformer(config, at::zeros({count_parameters(config)}, dtype)) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters_) {
    if (parameter.dim() == 1) {
      parameter.fill_(name.ends_with("bias") ? 0.0 : 1.0);
      continue;
    }
    const double full = name == "model.embed_tokens.weight" ? initial.embedding : initial.weight;
    const double deviation = full / (ends_residual_branch(name) ? std::sqrt(2.0 * static_cast<double>(config_.num_layers)) : 1.0);
    Draws draws(seed, Stream::kInitialise, fnv1a(name));   // the same for every layout of the flat buffer
    at::Tensor values = at::empty(parameter.sizes(), at::kFloat);
    float* x = values.data_ptr<float>();
    for (int64_t i = 0; i < values.numel(); ++i) x[i] = static_cast<float>(deviation) * draws.normal();
    parameter.copy_(values);
  }
}

// y + scale [x A_1^T B_1^T | x A_2^T B_2^T | ...] for maps whose outputs lie beside one another in y; a map without an adapter adds 0.
at::Tensor Transformer::add_low_rank(const at::Tensor& y, const at::Tensor& x, std::initializer_list<Map> maps) const {
  std::vector<at::Tensor> parts;
  for (const auto& [weight, lora] : maps)
    parts.push_back(lora.a.defined() ? at::mm(at::mm(x, lora.a.t()), lora.b.t()) : at::zeros({x.size(0), weight.size(0)}, x.options()));
  return y.add(parts.size() == 1 ? parts[0] : at::cat(parts, 1), lora_->scale());
}

at::Tensor Transformer::attention(const Layer& l, const at::Tensor& qkv, const Rows& rows) const {
  const TransformerConfig& c = config_;
  const at::Tensor normed = c.qk_norm ? norm_heads(qkv, l.q_norm, l.k_norm, c.num_heads, c.num_kv_heads, c.norm_eps) : qkv;
  const RotaryAttention heads{.heads = c.num_heads, .kv_heads = c.num_kv_heads};
  return rows.causal ? rotary_attention_trie(normed, rows.cosine, rows.sine, rows.trie, heads)
                     : rotary_attention_full(normed, rows.cosine, rows.sine, rows.trie, heads);
}

at::Tensor Transformer::layer(const Layer& l, const at::Tensor& x, const Rows& rows) const {
  const double epsilon = config_.norm_eps;
  auto [qkv, before] = norm_linear(x, l.input_norm, epsilon, {l.q, l.k, l.v}, defined({l.q_bias, l.k_bias, l.v_bias}));
  if (l.lora_q.a.defined() || l.lora_k.a.defined() || l.lora_v.a.defined())
    qkv = add_low_rank(qkv, rms_norm_rows(x, l.input_norm, epsilon), {{l.q, l.lora_q}, {l.k, l.lora_k}, {l.v, l.lora_v}});
  const at::Tensor mixed = attention(l, qkv, rows);
  at::Tensor y = add_linear(before, mixed, l.o, l.o_bias);
  if (l.lora_o.a.defined()) y = add_low_rank(y, mixed, {{l.o, l.lora_o}});
  auto [gate_up, middle] = norm_linear(y, l.post_norm, epsilon, {l.gate, l.up}, defined({l.gate_bias, l.up_bias}));
  if (l.lora_gate.a.defined() || l.lora_up.a.defined())
    gate_up = add_low_rank(gate_up, rms_norm_rows(y, l.post_norm, epsilon), {{l.gate, l.lora_gate}, {l.up, l.lora_up}});
  const at::Tensor out = swiglu_linear(gate_up, l.down, l.down_bias, middle);
  return l.lora_down.a.defined() ? add_low_rank(out, composed_swiglu(gate_up), {{l.down, l.lora_down}}) : out;
}

at::Tensor Transformer::hidden(const at::Tensor& tokens, const Trie& trie, const ForwardOptions& options) const {
  TT_CHECK_EQ(tokens.size(0), trie.num_rows);
  // In 16 bits far positions would share their angles, so these stay in f32 at least.
  const auto [cosine, sine] = rotary_rows(frequencies_, trie.positions(), flat_.options().dtype(flat_.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  at::Tensor x = at::embedding(parameters_.at("model.embed_tokens.weight"), tokens.to(flat_.device()));
  if (options.recompute_layers) {
    const auto kept = std::make_shared<const Trie>(trie);   // the backward may come when the caller's is gone
    for (const Layer& l : layers_)
      x = recompute([this, &l, cosine = cosine, sine = sine, kept, causal = options.causal](const at::Tensor& rows) {
        return layer(l, rows, {cosine, sine, *kept, causal});
      }, x);
  } else {
    for (const Layer& l : layers_) x = layer(l, x, {cosine, sine, trie, options.causal});
  }
  return rms_norm_rows(x, parameters_.at("model.norm.weight"), config_.norm_eps);
}

at::Tensor Transformer::head() const {
  const at::Tensor& weight = parameters_.at(config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  const auto a = adapter_parameters_.find("lm_head.lora_A.weight");
  return a == adapter_parameters_.end() ? weight : at::addmm(weight, adapter_parameters_.at("lm_head.lora_B.weight"), a->second, 1, lora_->scale());
}

at::Tensor Transformer::logits(const at::Tensor& tokens, const Trie& trie, const ForwardOptions& options) const {
  return at::mm(hidden(tokens, trie, options), head().t());
}

}  // namespace trimtab
