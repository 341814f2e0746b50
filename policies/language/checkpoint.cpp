// Hugging Face folders: config.json beside model.safetensors, or beside shards and model.safetensors.index.json.
#include <nlohmann/json.hpp>
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "policies/language/stored_tensor.h"
#include "policies/language/transformer.h"

namespace trimtab {

at::Tensor stored_tensor(const Tensor& t, const std::string& name, const std::filesystem::path& file) {
  static const std::map<std::string, at::ScalarType> kTypes = {
      {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}};
  const auto type = kTypes.find(t.dtype);
  if (type == kTypes.end())
    throw DataError(fmt::format("{}: tensor '{}' has dtype {}, but F16, BF16, F32 or F64 is needed: give an unquantised checkpoint",
                                file.string(), name, t.dtype));
  return at::from_blob(const_cast<uint8_t*>(t.bytes.data()), t.shape, at::TensorOptions(type->second));
}

namespace {

using Json = nlohmann::json;

// The files of a checkpoint, in the order of their names.
std::set<std::string> files_of(const std::filesystem::path& folder) {
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  if (!std::filesystem::exists(index)) {
    if (!std::filesystem::exists(folder / "model.safetensors"))
      throw DataError(fmt::format("{}: holds neither model.safetensors nor model.safetensors.index.json: give a Hugging Face model folder",
                                  folder.string()));
    return {"model.safetensors"};
  }
  std::set<std::string> files;
  try {
    const Json json = Json::parse(read_file(index));
    for (const auto& [name, file] : json.at("weight_map").items()) files.insert(file.get<std::string>());
  } catch (const Json::exception& e) {
    throw DataError(fmt::format("{}: not an index of shards: {}", index.string(), e.what()));
  }
  for (const std::string& file : files) {
    if (file.find('/') != std::string::npos || file.find("..") != std::string::npos)
      throw DataError(fmt::format("{}: names the shard '{}' outside its folder", index.string(), file));
    if (!std::filesystem::exists(folder / file))
      throw DataError(fmt::format("{}: the shard '{}' is missing: download it again", folder.string(), file));
  }
  return files;
}

// LLaDA's names (model.transformer.blocks.3.ff_proj.weight) are those of OLMo; the rest is as Hugging Face has it.
std::string own_name(const std::string& name) {
  static const std::map<std::string, std::string> kTop = {{"wte", "model.embed_tokens"}, {"ln_f", "model.norm"}, {"ff_out", "lm_head"}};
  static const std::map<std::string, std::string> kLayer = {
      {"attn_norm", "input_layernorm"}, {"ff_norm", "post_attention_layernorm"}, {"q_proj", "self_attn.q_proj"}, {"k_proj", "self_attn.k_proj"},
      {"v_proj", "self_attn.v_proj"}, {"attn_out", "self_attn.o_proj"}, {"ff_proj", "mlp.gate_proj"}, {"up_proj", "mlp.up_proj"}, {"ff_out", "mlp.down_proj"}};
  const std::string top = "model.transformer.", blocks = top + "blocks.";
  if (!name.starts_with(top)) return name;
  const size_t end = name.rfind('.'), part = name.rfind('.', end - 1) + 1;
  const std::map<std::string, std::string>& names = name.starts_with(blocks) ? kLayer : kTop;
  const auto found = names.find(name.substr(part, end - part));
  if (found == names.end()) return name;
  const std::string where = name.starts_with(blocks) ? "model.layers." + name.substr(blocks.size(), part - blocks.size()) : "";
  return where + found->second + name.substr(end);
}

// Copies one tensor into its parameter; tied heads that a file holds all the same are accepted when they are the embedding.
void take(const std::string& name, const at::Tensor& value, const std::filesystem::path& file, const Transformer& model,
          std::set<std::string>& missing) {
  const std::string own = own_name(name);
  const auto it = model.parameters().find(own);
  if (it == model.parameters().end()) {
    if (own == "lm_head.weight" && model.config().tied_embeddings) return;
    if (name.ends_with("rotary_emb.inv_freq")) return;   // old checkpoints hold the frequencies, which follow from config.json
    throw DataError(fmt::format("{}: tensor '{}' is no part of a {} model with {} layers: does config.json belong to it?", file.string(),
                                name, model.config().family, model.config().num_layers));
  }
  if (value.sizes() != it->second.sizes())
    throw DataError(fmt::format("{}: tensor '{}' has shape [{}], but config.json makes it [{}]", file.string(), name,
                                fmt::join(value.sizes(), ", "), fmt::join(it->second.sizes(), ", ")));
  if (missing.erase(own) == 0) throw DataError(fmt::format("{}: tensor '{}' is there twice, in different shards", file.string(), name));
  if (!value.isfinite().all().item<bool>())
    throw DataError(fmt::format("{}: tensor '{}' has values that are not finite", file.string(), name));
  it->second.copy_(value);
}

}  // namespace

Transformer Transformer::read(const std::filesystem::path& folder, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const TransformerConfig config = TransformerConfig::read(folder);
  const std::set<std::string> files = files_of(folder);
  // A config.json that promises more than the files hold must not make us allocate it.
  int64_t promised = 0, there = 0;
  for (const auto& [name, shape] : parameter_shapes(config)) {
    int64_t n = 1;
    for (const int64_t s : shape)
      if (__builtin_mul_overflow(n, s, &n)) n = INT64_MAX / 4;
    if (__builtin_add_overflow(promised, n, &promised)) promised = INT64_MAX;
  }
  for (const std::string& file : files) there += static_cast<int64_t>(std::filesystem::file_size(folder / file));
  if (promised > there)   // no dtype is below a byte
    throw DataError(fmt::format("{}: config.json describes {} parameters, but the files beside it have {} bytes: shards are missing or "
                                "config.json is another model's", folder.string(), promised, there));
  Transformer model(config, at::zeros({count_parameters(config)}, dtype));
  std::set<std::string> missing;
  for (const auto& [name, parameter] : model.parameters_) missing.insert(name);
  for (const std::string& file : files) {
    const TensorFile contents = read_safetensors(folder / file);
    for (const auto& [name, tensor] : contents.tensors)
      take(name, stored_tensor(tensor, name, folder / file), folder / file, model, missing);
  }
  if (!missing.empty())
    throw DataError(fmt::format("{}: tensor '{}'{} is missing: is a shard missing, or config.json another model's?", folder.string(),
                                *missing.begin(), missing.size() > 1 ? fmt::format(" (and {} more)", missing.size() - 1) : ""));
  return model;
}

void Transformer::write(const std::filesystem::path& folder, int64_t max_shard_bytes) const {
  const at::NoGradGuard no_grad;
  std::filesystem::create_directories(folder);
  std::vector<TensorFile> shards(1);
  int64_t filled = 0;
  Json map = Json::object();
  const std::map<std::string, at::Tensor> weights = merged();
  std::vector<std::pair<std::string, size_t>> where;
  for (const auto& [name, shape] : parameter_shapes(config_)) {
    const at::Tensor value = weights.at(name).detach().to(at::kFloat).contiguous();
    const int64_t bytes = value.numel() * 4;
    if (filled > 0 && filled + bytes > max_shard_bytes) shards.emplace_back(), filled = 0;
    filled += bytes;
    shards.back().tensors[name] = Tensor::f32(shape, {value.data_ptr<float>(), static_cast<size_t>(value.numel())});
    where.emplace_back(name, shards.size() - 1);
  }
  const auto file_name = [&](size_t i) {
    return shards.size() == 1 ? std::string("model.safetensors") : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  };
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].metadata["format"] = "pt";   // what transformers asks for
    write_safetensors(folder / file_name(i), shards[i]);
  }
  if (shards.size() > 1) {
    for (const auto& [name, shard] : where) map[name] = file_name(shard);
    write_file_atomically(folder / "model.safetensors.index.json",
                          Json({{"metadata", {{"total_size", flat_.numel() * 4}}}, {"weight_map", map}}).dump(2) + "\n");
  }
  write_file_atomically(folder / "config.json", config_.json());
}

}  // namespace trimtab
