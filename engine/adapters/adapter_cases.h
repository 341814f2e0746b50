// PEFT folders, good ones and bad, for the tests of stores and pools.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/files.h"
#include "core/half.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "engine/adapters/adapter_store.h"
#include "policies/language/test_support.h"

namespace trimtab {

inline const char* const kBaseName = "models/base";
inline const char* const kQueryA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

inline LoraConfig lora_of(int64_t rank, std::vector<std::string> targets = {"q_proj", "down_proj"}) {
  return {.rank = rank, .alpha = 5, .rslora = rank % 2 == 0, .targets = std::move(targets), .base_model = kBaseName};
}

// A tensor of `dtype` with drawn numbers.
inline Tensor drawn_tensor(const std::string& dtype, const std::vector<int64_t>& shape, Draws& draws) {
  std::vector<float> numbers(shape[0] * shape[1]);
  for (float& x : numbers) x = draws.normal();
  if (dtype == "F32") return Tensor::f32(shape, numbers);
  Tensor out{dtype, shape, std::vector<uint8_t>(2 * numbers.size())};
  for (size_t i = 0; i < numbers.size(); ++i)
    reinterpret_cast<uint16_t*>(out.bytes.data())[i] =
        dtype == "F16" ? float_to_half(numbers[i]) : static_cast<uint16_t>(std::bit_cast<uint32_t>(numbers[i]) >> 16);
  return out;
}

inline void write_adapter(const std::filesystem::path& folder, const LoraConfig& lora, const TransformerConfig& base, Draws& draws,
                          const std::string& dtype = "F32") {
  std::filesystem::create_directories(folder);
  TensorFile file;
  file.metadata["format"] = "pt";
  for (const auto& [name, shape] : adapter_shapes(lora, base)) file.tensors["base_model.model." + name] = drawn_tensor(dtype, shape, draws);
  write_safetensors(folder / "adapter_model.safetensors", file);
  write_file_atomically(folder / "adapter_config.json", lora.json());
}

inline std::vector<float> numbers_of(const Tensor& t) {
  std::vector<float> out;
  with_numbers(t, [&](auto number) {
    for (int64_t i = 0; i < t.shape[0] * t.shape[1]; ++i) out.push_back(number(i));
  });
  return out;
}

inline std::function<void(const std::filesystem::path&)> with_key(const std::string& key, const nlohmann::json& value) {
  return [=](const std::filesystem::path& folder) {
    nlohmann::json json = nlohmann::json::parse(read_file(folder / "adapter_config.json"));
    json[key] = value;
    std::ofstream(folder / "adapter_config.json") << json.dump();
  };
}

inline std::function<void(const std::filesystem::path&)> with_tensors(const std::function<void(std::map<std::string, Tensor>&)>& change) {
  return [=](const std::filesystem::path& folder) {
    TensorFile file = read_safetensors(folder / "adapter_model.safetensors");
    change(file.tensors);
    write_safetensors(folder / "adapter_model.safetensors", file);
  };
}

inline std::function<void(const std::filesystem::path&)> with_number(float x) {
  return with_tensors([x](auto& t) { reinterpret_cast<float*>(t.at(kQueryA).bytes.data())[5] = x; });
}

// What spoils a folder of lora_of(3), and words of what is said about it.
struct BadFolder {
  std::string what;
  std::function<void(const std::filesystem::path&)> spoil;
  std::vector<std::string> words;
};

inline std::vector<BadFolder> bad_configs() {
  const auto text = [](const std::string& content) { return [=](const auto& folder) { std::ofstream(folder / "adapter_config.json") << content; }; };
  return {
      {"another base model by name", with_key("base_model_name_or_path", "models/other"), {"adapter_config.json", "base_model_name_or_path", "models/other", kBaseName}},
      {"rank 0", with_key("r", 0), {"adapter_config.json", "'r'", "0"}},
      {"rank -1", with_key("r", -1), {"adapter_config.json", "'r'", "-1"}},
      {"rank in words", with_key("r", "eight"), {"adapter_config.json", "'r'", "eight"}},
      {"rank 129", with_key("r", 129), {"adapter_config.json", "'r'", "129", "128", "lower"}},
      {"rank of another file", with_key("r", 4), {"adapter_model.safetensors", "shape", "rank 4"}},
      {"infinite scale", with_key("lora_alpha", 1e300), {"adapter_config.json", "lora_alpha"}},
      {"lm_head", with_key("target_modules", {"q_proj", "down_proj", "lm_head"}), {"target_modules", "lm_head", "q_proj", "can be served"}},
      {"embed_tokens", with_key("target_modules", {"embed_tokens"}), {"target_modules", "embed_tokens", "can be served"}},
      {"another architecture", with_key("target_modules", {"c_attn"}), {"target_modules", "c_attn", "another model"}},
      {"a layer too many", with_key("target_modules", {"layers.2.self_attn.q_proj"}), {"layers.2.self_attn.q_proj", "2 layers"}},
      {"no targets", with_key("target_modules", nlohmann::json::array()), {"target_modules"}},
      {"a target without tensors", with_key("target_modules", {"q_proj", "down_proj", "k_proj"}), {"k_proj", "missing"}},
      {"tensors without a target", with_key("target_modules", {"q_proj"}), {"down_proj", "target_modules"}},
      {"DoRA", with_key("use_dora", true), {"adapter_config.json", "use_dora"}},
      {"ranks that differ", with_key("rank_pattern", {{"q_proj", 2}}), {"adapter_config.json", "rank_pattern"}},
      {"no JSON", text("{"), {"adapter_config.json", "JSON"}},
      {"an empty config", text(""), {"adapter_config.json", "JSON"}},
      {"no config", [](const auto& folder) { std::filesystem::remove(folder / "adapter_config.json"); }, {"adapter_config.json"}},
  };
}

inline std::vector<BadFolder> bad_tensors() {
  const char* const file = "adapter_model.safetensors";
  const auto remove = [=](const auto& folder) { std::filesystem::remove(folder / file); };
  const auto cut = [=](int64_t keep) { return [=](const auto& folder) { std::filesystem::resize_file(folder / file, keep); }; };
  const auto copy_to = [](const std::string& name) { return with_tensors([=](auto& t) { t[name] = t.at(kQueryA); }); };
  return {
      {"not finite", with_number(NAN), {file, "q_proj.lora_A", "finite"}},
      {"infinite", with_number(-INFINITY), {file, "q_proj.lora_A", "finite"}},
      {"no tensors", remove, {"adapter_model.safetensors", "copy"}},
      {"bin", [=](const auto& folder) { std::filesystem::rename(folder / file, folder / "adapter_model.bin"); }, {"adapter_model.bin", "PEFT"}},
      {"cut in the header", cut(100), {file, "header"}},
      {"cut in a tensor", [=](const auto& folder) { std::filesystem::resize_file(folder / file, std::filesystem::file_size(folder / file) - 8); }, {file, "cut short"}},
      {"empty", cut(0), {file, "header"}},
      {"not safetensors", [=](const auto& folder) { std::ofstream(folder / file) << std::string(400, 'x'); }, {file, "header"}},
      {"much too large", cut(int64_t{1} << 30), {file, "bytes", "at most"}},
      {"a tensor missing", with_tensors([](auto& t) { t.erase(kQueryA); }), {file, kQueryA, "missing"}},
      {"another layer", copy_to("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"), {file, "layers.2", "another model"}},
      {"there twice", copy_to("model.layers.0.self_attn.q_proj.lora_A.weight"), {file, "twice"}},
      {"an embedding", copy_to("base_model.model.model.embed_tokens.lora_embedding_A"), {file, "embed_tokens", "not served"}},
      {"a magnitude", copy_to("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"), {file, "magnitude", "DoRA"}},
      {"of whole numbers", with_tensors([](auto& t) { t.at(kQueryA).dtype = "I32"; }), {file, "q_proj.lora_A", "I32", "BF16"}},
      {"of doubles", with_tensors([](auto& t) { Tensor& x = t.at(kQueryA); x.dtype = "F64", x.bytes.resize(2 * x.bytes.size()); }), {file, "F64"}},
      {"transposed", with_tensors([](auto& t) { std::swap(t.at(kQueryA).shape[0], t.at(kQueryA).shape[1]); }), {file, "q_proj.lora_A", "shape", "[16, 3]", "[3, 16]"}},
      {"flat", with_tensors([](auto& t) { t.at(kQueryA).shape = {48}; }), {file, "q_proj.lora_A", "shape", "[48]"}},
  };
}

inline std::vector<BadFolder> bad_folders() {
  std::vector<BadFolder> out = bad_configs();
  for (BadFolder& bad : bad_tensors()) out.push_back(std::move(bad));
  return out;
}

// What f throws says, or nothing where it throws no E.
template <class E, class F>
std::string said(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "";
}

// The first word that `message` lacks, or nothing.
inline std::string lacks(const std::string& message, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    if (message.find(word) == std::string::npos) return "'" + message + "' lacks '" + word + "'";
  return "";
}

}  // namespace trimtab
