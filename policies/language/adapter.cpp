// A Transformer's adapter, and PEFT's folders of one: adapter_config.json beside adapter_model.safetensors, whose tensors are called
// base_model.model.LAYER.lora_A.weight and base_model.model.LAYER.lora_B.weight.
#include <fmt/ranges.h>
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/text.h"
#include "policies/language/adapter_base.h"
#include "policies/language/stored_tensor.h"
#include "policies/language/transformer.h"

namespace trimtab {
namespace {

constexpr char kPrefix[] = "base_model.model.";

std::filesystem::path weights_of(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "adapter_model.safetensors";
  if (std::filesystem::exists(file)) return file;
  throw DataError(fmt::format("{}: holds no adapter_model.safetensors: {}", folder.string(),
                              std::filesystem::exists(folder / "adapter_model.bin")
                                  ? "save adapter_model.bin again with a newer PEFT (or safe_serialization=True)"
                                  : "give a folder that PEFT or a run with policy.lora wrote"));
}

// PEFT puts an adapted output layer's own weight into the file: it must be the model's.
bool is_base_weight(const Transformer& base, const std::string& name, const at::Tensor& value) {
  constexpr std::string_view kEnd = ".base_layer.weight";
  if (!name.ends_with(kEnd)) return false;
  const auto it = base.parameters().find(name.substr(0, name.size() - kEnd.size()) + ".weight");
  return it != base.parameters().end() && value.sizes() == it->second.sizes() && value.equal(it->second.detach().to(value.scalar_type()));
}

// Copies one tensor of `file` into the adapter; `missing` are the names that have not come yet.
void take(const Transformer& to, const std::string& stored, const at::Tensor& value, const std::filesystem::path& file,
          std::set<std::string>& missing) {
  const std::string name = stored.starts_with(kPrefix) ? stored.substr(sizeof(kPrefix) - 1) : stored;
  const auto it = to.trainable_parameters().find(name);
  if (it == to.trainable_parameters().end()) {
    if (is_base_weight(to, name, value)) return;
    const bool weights = name.ends_with("lora_A.weight") || name.ends_with("lora_B.weight");
    throw DataError(fmt::format("{}: tensor '{}' {}", file.string(), stored,
                                weights ? fmt::format("belongs to no adapted layer of this {} model with {} layers: is the adapter another model's?",
                                                      to.config().family, to.config().num_layers)
                                        : "is no A or B of a linear layer: DoRA, adapted embeddings and modules saved whole are not built"));
  }
  if (value.sizes() != it->second.sizes())
    throw DataError(fmt::format("{}: tensor '{}' has shape [{}], but rank {} on this model makes it [{}]: is the adapter another model's?",
                                file.string(), stored, fmt::join(value.sizes(), ", "), to.adapter()->rank, fmt::join(it->second.sizes(), ", ")));
  if (!value.isfinite().all().item<bool>())
    throw DataError(fmt::format("{}: tensor '{}' has values that are not finite", file.string(), stored));
  if (missing.erase(name) == 0)
    throw DataError(fmt::format("{}: tensor '{}' is there twice, with and without '{}'", file.string(), stored, kPrefix));
  it->second.copy_(value);
}

int64_t size_of(const std::vector<std::pair<std::string, std::vector<int64_t>>>& shapes) {
  int64_t total = 0;
  for (const auto& [name, shape] : shapes) total += c10::multiply_integers(shape);
  return total;
}

}  // namespace

Transformer Transformer::with_adapter(const LoraConfig& lora, uint64_t seed) const {
  check_targets(lora, config_);
  const at::NoGradGuard no_grad;
  Transformer out(config_, flat_, lora, at::zeros({size_of(adapter_shapes(lora, config_))}, flat_.options()));
  for (const auto& [name, parameter] : out.adapter_parameters_) {
    if (!name.ends_with("lora_A.weight")) continue;
    const auto bound = static_cast<float>(1 / std::sqrt(static_cast<double>(parameter.size(1))));
    Draws draws(seed, Stream::kInitialise, fnv1a(name));
    at::Tensor values = at::empty(parameter.sizes(), at::kFloat);
    float* x = values.data_ptr<float>();
    for (int64_t i = 0; i < values.numel(); ++i) x[i] = draws.uniform(-bound, bound);
    parameter.copy_(values);
  }
  return out;
}

Transformer Transformer::with_adapter(const std::filesystem::path& folder) const {
  const at::NoGradGuard no_grad;
  const LoraConfig lora = LoraConfig::read(folder);
  const std::filesystem::path file = weights_of(folder);
  const TensorFile contents = read_safetensors(file);
  const auto shapes = adapter_shapes(lora, config_);
  // An adapter_config.json that promises more than the file holds must not make us allocate it; no dtype is below a byte.
  if (shapes.empty() || size_of(shapes) > static_cast<int64_t>(std::filesystem::file_size(file)))
    throw DataError(fmt::format("{}: {}: is the adapter another model's?", folder.string(),
                                shapes.empty() ? fmt::format("none of its target_modules ({}) is a layer of the model", fmt::join(lora.targets, ", "))
                                               : fmt::format("{} tensors of rank {} do not fit into adapter_model.safetensors", shapes.size(), lora.rank)));
  Transformer out(config_, flat_, lora, at::zeros({size_of(shapes)}, flat_.options()));
  std::set<std::string> missing;
  for (const auto& [name, shape] : shapes) missing.insert(name);
  for (const auto& [name, tensor] : contents.tensors) take(out, name, stored_tensor(tensor, name, file), file, missing);
  if (!missing.empty())
    throw DataError(fmt::format("{}: tensor '{}{}'{} is missing: is the adapter another model's?", file.string(), kPrefix, *missing.begin(),
                                missing.size() > 1 ? fmt::format(" (and {} more)", missing.size() - 1) : ""));
  if (const std::string fingerprint = fingerprint_in(contents); !fingerprint.empty())
    check_base({lora.base_model, fingerprint}, {"", fingerprint_of(*this)}, folder);
  return out;
}

void Transformer::write_adapter(const std::filesystem::path& folder) const {
  TT_CHECK(lora_, "the model has no adapter");
  const at::NoGradGuard no_grad;
  std::filesystem::create_directories(folder);
  TensorFile file;
  file.metadata["format"] = "pt", file.metadata[kBaseFingerprint] = fingerprint_of(*this);
  for (const auto& [name, shape] : adapter_shapes(*lora_, config_)) {
    const at::Tensor value = adapter_parameters_.at(name).detach().to(at::kFloat).contiguous();
    file.tensors[kPrefix + name] = Tensor::f32(shape, {value.data_ptr<float>(), static_cast<size_t>(value.numel())});
  }
  write_safetensors(folder / "adapter_model.safetensors", file);
  write_file_atomically(folder / "adapter_config.json", lora_->json());
}

std::map<std::string, at::Tensor> Transformer::merged() const {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> out = parameters_;
  if (!lora_) return out;
  for (const std::string& layer : adapted_layers(*lora_, config_)) {
    at::Tensor& weight = out.at(layer + ".weight");
    weight = at::addmm(weight, adapter_parameters_.at(layer + ".lora_B.weight"), adapter_parameters_.at(layer + ".lora_A.weight"), 1, lora_->scale());
  }
  return out;
}

}  // namespace trimtab
