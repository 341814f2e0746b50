// A mixture's folder: mixture.json, routers.safetensors and its adapters.
#include <fmt/ranges.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "policies/language/adapter_mixture/mixture.h"
#include "policies/language/stored_tensor.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

std::filesystem::path adapter_folder(const std::filesystem::path& folder, int64_t i) { return folder / "adapters" / std::to_string(i); }

struct Stored {
  TsallisRouting routing;
  int64_t adapters = 0;
};

Stored read_json(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "mixture.json";
  if (!std::filesystem::exists(file))
    throw DataError(fmt::format("{}: holds no mixture.json: give the folder `mixture` of a run with the preset adapter_mixture", folder.string()));
  const Json json = Json::parse(read_file(file), nullptr, false);
  const auto number = [&](const char* key, double low, double high) {
    if (!json.is_object() || !json.contains(key) || !json[key].is_number() || !(json[key] >= low && json[key] <= high))
      throw DataError(fmt::format("{}: '{}' must be a number from {} to {}: write the mixture again", file.string(), key, low, high));
    return json[key].get<double>();
  };
  return {.routing = {.q = number("q", 1e-3, 100), .threshold = number("threshold", 0, 1), .top_p = number("top_p", 0, 1),
                      .keep = static_cast<int64_t>(number("keep", 1, 65536))},
          .adapters = static_cast<int64_t>(number("adapters", 1, 65536))};
}

}  // namespace

void AdapterMixture::write(const std::filesystem::path& folder) const {
  const at::NoGradGuard no_grad;
  std::filesystem::create_directories(folder);
  for (int64_t i = 0; i < experts(); ++i) adapters_[i].write_adapter(adapter_folder(folder, i));
  const at::Tensor values = routers_.detach().to(at::kFloat).contiguous();
  TensorFile file;
  file.tensors["routers"] = Tensor::f32(values.sizes().vec(), {values.data_ptr<float>(), static_cast<size_t>(values.numel())});
  write_safetensors(folder / "routers.safetensors", file);
  const Json json = {{"q", routing_.q}, {"threshold", routing_.threshold}, {"top_p", routing_.top_p}, {"keep", routing_.keep}, {"adapters", experts()}};
  write_file_atomically(folder / "mixture.json", json.dump(2) + "\n");
}

AdapterMixture AdapterMixture::read(const Transformer& base, const std::filesystem::path& folder) {
  const at::NoGradGuard no_grad;
  const Stored stored = read_json(folder);
  std::vector<Transformer> adapters;
  for (int64_t i = 0; i < stored.adapters; ++i) adapters.push_back(base.with_adapter(adapter_folder(folder, i)));
  AdapterMixture out(base, adapters, stored.routing);
  const std::filesystem::path file = folder / "routers.safetensors";
  const TensorFile contents = read_safetensors(file);
  const at::Tensor value = stored_tensor(contents.at("routers"), "routers", file);
  if (value.sizes() != out.routers_.sizes() || !value.isfinite().all().item<bool>())
    throw DataError(fmt::format("{}: 'routers' has shape [{}] or values that are not finite; this base and these adapters need [{}]: is the mixture another model's?",
                                file.string(), fmt::join(value.sizes(), ", "), fmt::join(out.routers_.sizes(), ", ")));
  out.routers_.copy_(value);
  return out;
}

}  // namespace trimtab
