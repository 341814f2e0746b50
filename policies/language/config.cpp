#include "policies/language/config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/error.h"
#include "core/files.h"
#include "core/json_shape.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

// One config.json: typed access with errors that name file and key.
class Reader {
 public:
  Reader(std::filesystem::path file, Json json) : file_(std::move(file)), json_(std::move(json)) {
    if (!json_.is_object()) fail("is no JSON object");
  }
  [[noreturn]] void fail(const std::string& why) const { throw DataError(fmt::format("{}: {}", file_.string(), why)); }
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  int64_t size(const char* key, int64_t high = int64_t{1} << 31) const {
    if (!has(key)) fail(fmt::format("has no '{}': is it the config.json of a Llama, Qwen2 or Qwen3 model?", key));
    return checked_size(key, high);
  }
  int64_t size_or(const char* key, int64_t otherwise) const { return has(key) ? checked_size(key, int64_t{1} << 31) : otherwise; }
  double number_or(const char* key, double otherwise) const {
    if (!has(key)) return otherwise;
    if (!json_[key].is_number() || !(json_[key].get<double>() > 0) || std::isinf(json_[key].get<double>()))
      fail(fmt::format("'{}' is {}, but it must be a number above 0", key, json_[key].dump()));
    return json_[key].get<double>();
  }
  bool flag_or(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!json_[key].is_boolean()) fail(fmt::format("'{}' is {}, but it must be true or false", key, json_[key].dump()));
    return json_[key].get<bool>();
  }
  std::string text_or(const char* key, const std::string& otherwise) const {
    if (!has(key)) return otherwise;
    if (!json_[key].is_string()) fail(fmt::format("'{}' is {}, but it must be a string", key, json_[key].dump()));
    return json_[key].get<std::string>();
  }
  int64_t whole(const char* key, int64_t low, int64_t high) const {
    const Json& x = json_[key];
    if (!x.is_number_integer() || x.get<int64_t>() < low || x.get<int64_t>() > high)
      fail(fmt::format("'{}' is {}, but it must be a whole number from {} to {}", key, x.dump(), low, high));
    return x.get<int64_t>();
  }
  Reader inner(const char* key) const { return Reader(file_, has(key) ? json_[key] : Json::object()); }
  const Json& json() const { return json_; }

 private:
  int64_t checked_size(const char* key, int64_t high) const { return whole(key, 1, high); }
  std::filesystem::path file_;
  Json json_;
};

RopeConfig::Scaling scaling_of(const Reader& r, const std::string& type) {
  if (type.empty() || type == "default") return RopeConfig::Scaling::kNone;
  if (type == "linear") return RopeConfig::Scaling::kLinear;
  if (type == "llama3") return RopeConfig::Scaling::kLlama3;
  if (type == "yarn") return RopeConfig::Scaling::kYarn;
  r.fail(fmt::format("rotary scaling '{}' is not built: default, linear, llama3 and yarn are", type));
}

// transformers 5 writes rope_parameters (with rope_theta in it), earlier versions rope_theta and rope_scaling.
RopeConfig read_rope(const Reader& r, int64_t max_positions) {
  const Reader block = r.inner(r.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  RopeConfig rope;
  rope.theta = block.number_or("rope_theta", r.number_or("rope_theta", 10000));
  rope.scaling = scaling_of(r, block.text_or("rope_type", block.text_or("type", "")));
  rope.factor = block.number_or("factor", 1);
  rope.original_positions = block.number_or("original_max_position_embeddings", static_cast<double>(max_positions));
  rope.low_frequency_factor = block.number_or("low_freq_factor", 1);
  rope.high_frequency_factor = block.number_or("high_freq_factor", 4);
  rope.beta_fast = block.number_or("beta_fast", 32);
  rope.beta_slow = block.number_or("beta_slow", 1);
  rope.attention_factor = block.number_or("attention_factor", 0);
  for (const char* key : {"mscale", "mscale_all_dim", "truncate"})
    if (block.has(key)) r.fail(fmt::format("rotary key '{}' is not built", key));
  if (rope.scaling == RopeConfig::Scaling::kLlama3 && rope.high_frequency_factor <= rope.low_frequency_factor)
    r.fail("rotary scaling llama3 needs high_freq_factor above low_freq_factor");
  return rope;
}

void check(const Reader& r, const TransformerConfig& c) {
  if (c.num_heads % c.num_kv_heads != 0)
    r.fail(fmt::format("num_attention_heads = {} is no multiple of num_key_value_heads = {}", c.num_heads, c.num_kv_heads));
  if (c.head_dim % 2 != 0) r.fail(fmt::format("the head size {} is odd, but rotary embeddings turn pairs", c.head_dim));
  if (r.text_or("hidden_act", "silu") != "silu") r.fail(fmt::format("hidden_act '{}' is not built: only silu is", r.text_or("hidden_act", "")));
  if (r.flag_or("use_sliding_window", false)) r.fail("sliding-window attention is not built: set use_sliding_window to false if the context is short");
  if (r.has("quantization_config")) r.fail("quantised checkpoints are not read: give the unquantised one");
}

int64_t read_mask_id(const Reader& r, const TransformerConfig& c) {
  if (!r.has("mask_token_id")) r.fail("has no 'mask_token_id': a masked diffusion model needs one; its tokenizer's mask token says which");
  const Json& id = r.json()["mask_token_id"];
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= c.vocab_size)
    r.fail(fmt::format("mask_token_id {} is no token of a vocabulary of {}: give the id of the tokenizer's mask token", id.dump(), c.vocab_size));
  return id.get<int64_t>();
}

// What says that a model of the usual shape fills in masks: `mask_token_id` and the block `diffusion`, both or neither.
DiffusionConfig read_diffusion(const Reader& r, const TransformerConfig& c) {
  if (!r.has("diffusion") && !r.has("mask_token_id")) return {};
  if (!r.has("diffusion"))
    r.fail("has a 'mask_token_id' but no 'diffusion': add diffusion: {\"shifted\": ..., \"block\": ...}, or take the mask out of a causal model");
  const Reader block = r.inner("diffusion");
  for (const auto& [key, value] : block.json().items())
    if (key != "shifted" && key != "block") r.fail(fmt::format("diffusion has the key '{}', but only shifted and block are known", key));
  return {.mask_id = read_mask_id(r, c), .shifted = block.flag_or("shifted", false), .block = block.has("block") ? block.whole("block", 0, c.max_positions) : 0};
}

void read_eos(const Reader& r, TransformerConfig& c) {
  if (!r.has("eos_token_id")) return;
  const Json& eos = r.json()["eos_token_id"];
  for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= c.vocab_size)
      r.fail(fmt::format("eos_token_id {} is no token of a vocabulary of {}", id.dump(), c.vocab_size));
    c.eos_ids.push_back(id.get<int64_t>());
  }
}

// LLaDA's config.json has the keys of OLMo, with many switches; those of its released models are built.
TransformerConfig read_llada(const Reader& r) {
  const auto must_be = [&](const char* key, const std::string& wanted, const std::string& otherwise) {
    const std::string value = r.has(key) ? (r.json()[key].is_string() ? r.json()[key].get<std::string>() : r.json()[key].dump()) : otherwise;
    if (value != wanted) r.fail(fmt::format("'{}' is {}, and only {} is built for LLaDA", key, value, wanted));
  };
  must_be("block_type", "llama", "sequential"), must_be("activation_type", "silu", "swiglu"), must_be("layer_norm_type", "rms", "default");
  must_be("rope", "true", "false"), must_be("layer_norm_with_affine", "true", "true"), must_be("block_group_size", "1", "1");
  for (const char* key : {"alibi", "attention_layer_norm", "input_emb_norm", "scale_logits", "include_bias"}) must_be(key, "false", "false");
  TransformerConfig c;
  c.hidden_size = r.size("d_model"), c.num_layers = r.size("n_layers", 1000), c.num_heads = r.size("n_heads");
  c.num_kv_heads = r.size_or("n_kv_heads", r.flag_or("multi_query_attention", false) ? 1 : c.num_heads);
  c.vocab_size = r.size_or("embedding_size", r.size("vocab_size"));   // rows of the embedding, padded
  c.intermediate_size = r.size_or("mlp_hidden_size", r.size_or("mlp_ratio", 4) * c.hidden_size);
  c.max_positions = r.size_or("max_sequence_length", 1024);
  if (c.hidden_size % c.num_heads != 0) r.fail(fmt::format("d_model = {} is no multiple of n_heads = {}", c.hidden_size, c.num_heads));
  c.head_dim = c.hidden_size / c.num_heads;
  c.norm_eps = r.number_or("rms_norm_eps", 1e-5), c.rope.theta = r.number_or("rope_theta", 10000);
  c.rope.original_positions = static_cast<double>(c.max_positions);
  c.tied_embeddings = r.flag_or("weight_tying", true);
  c.qkv_bias = r.flag_or("include_qkv_bias", false);
  c.family = c.qkv_bias ? "qwen2" : "llama";
  c.diffusion = {.mask_id = read_mask_id(r, c)};
  read_eos(r, c);
  return c;
}

}  // namespace

TransformerConfig TransformerConfig::read(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  Json json;
  try {
    const std::string text = read_file(file);
    constexpr size_t kDeepest = 32;   // deeper ones would end the process where a value is shown
    if (json_shape(text).depth > kDeepest) throw DataError(fmt::format("{}: more than {} levels of brackets; no model needs that", file.string(), kDeepest));
    json = Json::parse(text);
  } catch (const Json::exception& e) {
    throw DataError(fmt::format("{}: not JSON: {}", file.string(), e.what()));
  }
  const Reader r(file, std::move(json));
  TransformerConfig c;
  c.family = r.text_or("model_type", "");
  if (c.family == "llada") {
    c = read_llada(r);
    check(r, c);
    return c;
  }
  const bool dream = c.family == "Dream";
  if (dream) c.family = "qwen2";
  if (c.family != "llama" && c.family != "qwen2" && c.family != "qwen3")
    r.fail(fmt::format("model_type '{}' is not built: llama, qwen2, qwen3, llada and Dream are", c.family));
  c.vocab_size = r.size("vocab_size"), c.hidden_size = r.size("hidden_size"), c.num_layers = r.size("num_hidden_layers", 1000);
  c.num_heads = r.size("num_attention_heads"), c.num_kv_heads = r.size_or("num_key_value_heads", c.num_heads);
  c.intermediate_size = r.size("intermediate_size"), c.max_positions = r.size_or("max_position_embeddings", 2048);
  if (!r.has("head_dim") && c.hidden_size % c.num_heads != 0)
    r.fail(fmt::format("hidden_size = {} is no multiple of num_attention_heads = {}, and there is no head_dim", c.hidden_size, c.num_heads));
  c.head_dim = r.size_or("head_dim", c.family == "qwen3" ? 128 : c.hidden_size / c.num_heads);
  c.norm_eps = r.number_or("rms_norm_eps", 1e-6);
  c.qk_norm = c.family == "qwen3";
  const bool bias = r.flag_or("attention_bias", false);
  c.qkv_bias = c.family == "qwen2" || bias;
  c.output_bias = c.family != "qwen2" && bias;
  c.mlp_bias = c.family == "llama" && r.flag_or("mlp_bias", false);
  c.tied_embeddings = r.flag_or("tie_word_embeddings", false);
  c.rope = read_rope(r, c.max_positions);
  c.diffusion = dream ? DiffusionConfig{.mask_id = read_mask_id(r, c), .shifted = true} : read_diffusion(r, c);
  read_eos(r, c);
  check(r, c);
  return c;
}

std::string TransformerConfig::json() const {
  const char* architecture = family == "llama" ? "LlamaForCausalLM" : family == "qwen2" ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM";
  Json scaling = nullptr;
  switch (rope.scaling) {
    case RopeConfig::Scaling::kNone: break;
    case RopeConfig::Scaling::kLinear: scaling = {{"rope_type", "linear"}, {"factor", rope.factor}}; break;
    case RopeConfig::Scaling::kLlama3:
      scaling = {{"rope_type", "llama3"}, {"factor", rope.factor}, {"low_freq_factor", rope.low_frequency_factor},
                 {"high_freq_factor", rope.high_frequency_factor},
                 {"original_max_position_embeddings", static_cast<int64_t>(rope.original_positions)}};
      break;
    case RopeConfig::Scaling::kYarn:
      scaling = {{"rope_type", "yarn"}, {"factor", rope.factor}, {"beta_fast", rope.beta_fast}, {"beta_slow", rope.beta_slow},
                 {"original_max_position_embeddings", static_cast<int64_t>(rope.original_positions)}};
      if (rope.attention_factor > 0) scaling["attention_factor"] = rope.attention_factor;
  }
  Json j = {{"architectures", {architecture}}, {"model_type", family}, {"vocab_size", vocab_size}, {"hidden_size", hidden_size},
            {"num_hidden_layers", num_layers}, {"num_attention_heads", num_heads}, {"num_key_value_heads", num_kv_heads},
            {"head_dim", head_dim}, {"intermediate_size", intermediate_size}, {"max_position_embeddings", max_positions},
            {"rms_norm_eps", norm_eps}, {"rope_theta", rope.theta}, {"rope_scaling", scaling}, {"hidden_act", "silu"},
            {"attention_bias", family == "qwen2" ? false : qkv_bias}, {"mlp_bias", mlp_bias},
            {"tie_word_embeddings", tied_embeddings}, {"torch_dtype", "float32"}};
  if (!eos_ids.empty()) j["eos_token_id"] = eos_ids.size() == 1 ? Json(eos_ids[0]) : Json(eos_ids);
  if (diffusion.enabled()) j["mask_token_id"] = diffusion.mask_id, j["diffusion"] = {{"shifted", diffusion.shifted}, {"block", diffusion.block}};
  return j.dump(2) + "\n";
}

RopeFrequencies rope_frequencies(const RopeConfig& rope, int64_t head_dim) {
  RopeFrequencies out;
  const double pi = std::numbers::pi, half = static_cast<double>(head_dim) / 2;
  // yarn: the pair whose wave turns `turns` times over the original context
  const auto pair_of = [&](double turns) {
    return static_cast<double>(head_dim) * std::log(rope.original_positions / (turns * 2 * pi)) / (2 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(pair_of(rope.beta_fast)), 0.0),
               high = std::min(std::ceil(pair_of(rope.beta_slow)), static_cast<double>(head_dim) - 1);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double f = std::pow(rope.theta, -static_cast<double>(i) / half);
    if (rope.scaling == RopeConfig::Scaling::kLinear) f /= rope.factor;
    if (rope.scaling == RopeConfig::Scaling::kLlama3) {
      const double turns = rope.original_positions * f / (2 * pi);
      const double smooth = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
      const double keep = std::min(std::max(smooth, 0.0), 1.0);   // 1: high frequencies stay, 0: low ones are stretched
      f = keep * f + (1 - keep) * f / rope.factor;
    }
    if (rope.scaling == RopeConfig::Scaling::kYarn) {
      const double ramp = std::min(std::max((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0), 1.0);
      f = ramp * f / rope.factor + (1 - ramp) * f;
    }
    out.inverse.push_back(f);
  }
  if (rope.scaling == RopeConfig::Scaling::kYarn)
    out.attention_factor = rope.attention_factor > 0 ? rope.attention_factor : rope.factor > 1 ? 0.1 * std::log(rope.factor) + 1 : 1;
  return out;
}

}  // namespace trimtab
