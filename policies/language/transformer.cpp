#include "policies/language/transformer.h"

#include <torch/torch.h>

#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "policies/language/ops/attention_trie.h"

namespace trimtab {
namespace {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::addmm(bias, x, weight.t()) : at::mm(x, weight.t());
}

// x [T, heads, D]: pairs (i, i + D/2) turned by the row's angle; cosine and sine [T, 1, D].
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine) {
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return x * cosine + at::cat({-halves[1], halves[0]}, -1) * sine;
}

bool ends_residual_branch(const std::string& name) { return name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight"); }

}  // namespace

std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(const TransformerConfig& c) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> out;
  const auto add = [&](std::string name, std::vector<int64_t> shape) { out.emplace_back(std::move(name), std::move(shape)); };
  const auto add_linear = [&](const std::string& name, int64_t to, int64_t from, bool bias) {
    add(name + ".weight", {to, from});
    if (bias) add(name + ".bias", {to});
  };
  const int64_t d = c.hidden_size, q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  add("model.embed_tokens.weight", {c.vocab_size, d});
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i), attention = layer + "self_attn.";
    add(layer + "input_layernorm.weight", {d});
    add_linear(attention + "q_proj", q, d, c.qkv_bias);
    add_linear(attention + "k_proj", kv, d, c.qkv_bias);
    add_linear(attention + "v_proj", kv, d, c.qkv_bias);
    add_linear(attention + "o_proj", d, q, c.output_bias);
    if (c.qk_norm) add(attention + "q_norm.weight", {c.head_dim}), add(attention + "k_norm.weight", {c.head_dim});
    add(layer + "post_attention_layernorm.weight", {d});
    add_linear(layer + "mlp.gate_proj", c.intermediate_size, d, c.mlp_bias);
    add_linear(layer + "mlp.up_proj", c.intermediate_size, d, c.mlp_bias);
    add_linear(layer + "mlp.down_proj", d, c.intermediate_size, c.mlp_bias);
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

Transformer::Transformer(TransformerConfig config, at::Tensor flat)
    : config_(std::move(config)), flat_(std::move(flat)), flat_gradient_(at::zeros_like(flat_)) {
  int64_t first = 0;
  for (const auto& [name, shape] : parameter_shapes(config_)) {
    const int64_t n = c10::multiply_integers(shape);
    at::Tensor view = flat_.narrow(0, first, n).view(shape).detach();
    view.set_requires_grad(true);
    view.mutable_grad() = flat_gradient_.narrow(0, first, n).view(shape);
    parameters_.emplace(name, view);
    first += n;
  }
  const auto get = [&](const std::string& name) {
    const auto it = parameters_.find(name);
    return it == parameters_.end() ? at::Tensor() : it->second;
  };
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const std::string l = fmt::format("model.layers.{}.", i), a = l + "self_attn.", m = l + "mlp.";
    layers_.push_back({.input_norm = get(l + "input_layernorm.weight"), .post_norm = get(l + "post_attention_layernorm.weight"),
                       .q = get(a + "q_proj.weight"), .k = get(a + "k_proj.weight"), .v = get(a + "v_proj.weight"),
                       .o = get(a + "o_proj.weight"), .q_bias = get(a + "q_proj.bias"), .k_bias = get(a + "k_proj.bias"),
                       .v_bias = get(a + "v_proj.bias"), .o_bias = get(a + "o_proj.bias"), .q_norm = get(a + "q_norm.weight"),
                       .k_norm = get(a + "k_norm.weight"), .gate = get(m + "gate_proj.weight"), .up = get(m + "up_proj.weight"),
                       .down = get(m + "down_proj.weight"), .gate_bias = get(m + "gate_proj.bias"), .up_bias = get(m + "up_proj.bias"),
                       .down_bias = get(m + "down_proj.bias")});
  }
  frequencies_ = rope_frequencies(config_.rope, config_.head_dim);
}

Transformer Transformer::replica() const { return Transformer(config_, flat_); }

Transformer::Transformer(TransformerConfig config, uint64_t seed, at::ScalarType dtype, Initialisation initial)
    : Transformer(config, at::zeros({count_parameters(config)}, dtype)) {
  const torch::NoGradGuard no_grad;
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

at::Tensor Transformer::layer(const Layer& l, const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                              const Trie& trie) const {
  const int64_t rows = x.size(0), d = config_.head_dim;
  const auto norm = [&](const at::Tensor& of, const at::Tensor& weight) { return at::rms_norm(of, {of.size(-1)}, weight, config_.norm_eps); };
  const at::Tensor h = norm(x, l.input_norm);
  at::Tensor q = linear(h, l.q, l.q_bias).view({rows, config_.num_heads, d});
  at::Tensor k = linear(h, l.k, l.k_bias).view({rows, config_.num_kv_heads, d});
  const at::Tensor v = linear(h, l.v, l.v_bias).view({rows, config_.num_kv_heads, d});
  if (config_.qk_norm) q = norm(q, l.q_norm), k = norm(k, l.k_norm);
  const at::Tensor mixed = attention_trie(rotate(q, cosine, sine), rotate(k, cosine, sine), v, trie);
  const at::Tensor middle = x + linear(mixed.reshape({rows, config_.num_heads * d}), l.o, l.o_bias);
  const at::Tensor g = norm(middle, l.post_norm);
  return middle + linear(at::silu(linear(g, l.gate, l.gate_bias)) * linear(g, l.up, l.up_bias), l.down, l.down_bias);
}

at::Tensor Transformer::hidden(const at::Tensor& tokens, const Trie& trie) const {
  TT_CHECK_EQ(tokens.size(0), trie.num_rows);
  const std::vector<int64_t> positions = trie.positions();
  const at::Tensor angles = at::outer(at::tensor(positions, at::kDouble), at::tensor(frequencies_.inverse, at::kDouble));
  const at::Tensor both = at::cat({angles, angles}, -1).unsqueeze(1);
  const at::Tensor cosine = (both.cos() * frequencies_.attention_factor).to(flat_.scalar_type());
  const at::Tensor sine = (both.sin() * frequencies_.attention_factor).to(flat_.scalar_type());
  at::Tensor x = at::embedding(parameters_.at("model.embed_tokens.weight"), tokens);
  for (const Layer& l : layers_) x = layer(l, x, cosine, sine, trie);
  return at::rms_norm(x, {config_.hidden_size}, parameters_.at("model.norm.weight"), config_.norm_eps);
}

const at::Tensor& Transformer::head() const {
  return parameters_.at(config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
}

at::Tensor Transformer::logits(const at::Tensor& tokens, const Trie& trie) const { return at::mm(hidden(tokens, trie), head().t()); }

}  // namespace trimtab
