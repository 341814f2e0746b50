#include "policies/language/adapter_base.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cctype>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "core/files.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

// "Qwen/Qwen3-0.6B" of a folder called models--Qwen--Qwen3-0.6B.
std::string name_of_cached(const std::string& folder) {
  constexpr std::string_view kBegin = "models--", kSlash = "--";
  if (!folder.starts_with(kBegin)) return "";
  const size_t slash = folder.find(kSlash, kBegin.size());
  if (slash == std::string::npos) return "";
  return folder.substr(kBegin.size(), slash - kBegin.size()) + "/" + folder.substr(slash + kSlash.size());
}

// Both known, and different.
bool contradict(const std::string& wanted, const std::string& given) { return !wanted.empty() && !given.empty() && wanted != given; }

bool looks_like_one(const std::string& name) {
  return !name.empty() && std::isalnum(static_cast<unsigned char>(name[0])) && name.back() != '/' && std::count(name.begin(), name.end(), '/') == 1;
}

}  // namespace

std::string fingerprint_of(const Transformer& base) {
  const at::NoGradGuard no_grad;
  std::string all;
  for (const auto& [name, weight] : base.parameters()) {   // one by one: a copy of all would be as large as the model
    const at::Tensor rounded = weight.detach().to(at::kCPU, at::kFloat).to(at::kBFloat16).contiguous();
    all += fmt::format("{} {}\n", name, hash_bytes({static_cast<const char*>(rounded.data_ptr()), rounded.nbytes()}));
  }
  return hash_bytes(all);
}

std::string fingerprint_in(const TensorFile& adapter) {
  const auto it = adapter.metadata.find(kBaseFingerprint);
  return it == adapter.metadata.end() ? "" : it->second;
}

std::string hub_name(const std::string& name) {
  std::error_code none;
  for (const fs::path& folder : fs::weakly_canonical(name, none))   // what a link means
    if (const std::string cached = name_of_cached(folder.string()); !cached.empty()) return cached;
  std::string plain = name;
  while (plain.size() > 1 && plain.back() == '/') plain.pop_back();
  return looks_like_one(plain) && !fs::exists(plain, none) ? plain : "";   // "runs/base" is a path where there is such a folder
}

void check_base(const AdapterBase& said, const AdapterBase& base, const fs::path& folder) {
  if (!said.fingerprint.empty() && !base.fingerprint.empty()) {
    if (said.fingerprint == base.fingerprint) return;
    throw DataError(fmt::format("{}: the adapter was trained beside the weights of {} (fingerprint {}), but those of {} are others (fingerprint {}): give the "
                                "model it was trained on, as it was then, or train the adapter again on this one", (folder / "adapter_model.safetensors").string(),
                                said.name.empty() ? "a model" : fmt::format("\"{}\"", said.name), said.fingerprint,
                                base.name.empty() ? "the model it is put on" : fmt::format("\"{}\"", base.name), base.fingerprint));
  }
  const std::string wanted = hub_name(said.name), given = hub_name(base.name);
  if (!contradict(wanted, given)) return;
  throw DataError(fmt::format("{}: 'base_model_name_or_path' is \"{}\", but the base model is \"{}\": give the adapter its own model, or, if both names mean the "
                              "same weights, write the base model's there", (folder / "adapter_config.json").string(), said.name, given));
}

fs::path adapter_folder(const fs::path& path) { return fs::exists(path / "adapter") ? path / "adapter" : path; }

Transformer read_adapter(const Transformer& base, const std::string& base_name, const fs::path& path) {
  const fs::path folder = adapter_folder(path);
  try {
    Transformer out = base.with_adapter(folder);
    const std::string& said = out.adapter()->base_model;
    if (contradict(hub_name(said), hub_name(base_name))) {   // seldom: the file is read once more
      const std::string same = fingerprint_in(read_safetensors(folder / "adapter_model.safetensors"));   // as the base's, or there is none
      check_base({said, same}, {base_name, same}, folder);
    }
    return out;
  } catch (const DataError& error) {
    throw DataError(fmt::format("{} (the model is {})", error.what(), base_name));
  }
}

}  // namespace trimtab
