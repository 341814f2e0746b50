// ModelOpt's checkpoint metadata, schema 1 (NVIDIA/Model-Optimizer#2272: modelopt/torch/export/quant_utils.py; consumer: vllm#56116):
// formats of the layers that are quantised, under their attention's name. ModelOpt names the common format instead of MIXED_PRECISION
// when all entries agree; we do not write that form, as a consumer without layer maps would apply it to the 16-bit layers too.
#include <algorithm>

#include "core/error.h"
#include "domain/kv_recipe/format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr KvTypeName kAlgorithms[] = {{"FP8", {8, 8}}, {"NVFP4", {4, 4}}, {"FP8_K_NVFP4_V", {8, 4}}};
constexpr KvBits kPlain{16, 16};
constexpr int64_t kSchema = 1;

// The layer of "model.layers.12.self_attn"; other models have other words around it ("language_model.model.layers.12.attn").
std::optional<int64_t> layer_of(const std::string& name, int64_t layers) {
  constexpr std::string_view kMark = "layers.";
  const size_t mark = name.rfind(kMark);
  if (mark == std::string::npos || (mark > 0 && name[mark - 1] != '.')) return std::nullopt;
  const size_t start = mark + kMark.size(), end = name.find('.', start);
  if (end == std::string::npos || end + 1 == name.size()) return std::nullopt;
  return parse_index(std::string_view(name).substr(start, end - start), layers);
}

// What concerns the weights stands beside it and is not ours to judge.
void check_kv_keys(const RecipeJson& quantization) {
  const std::vector<std::string> known = {"kv_cache_quant_algo", "kv_cache_schema_version", "kv_cache_quantized_layers", "kv_cache_deployment_supported"};
  for (const auto& [key, value] : quantization.object().items()) {
    if (key.starts_with("kv_cache_") && std::find(known.begin(), known.end(), key) == known.end()) quantization.fail(unknown_key(key, known));
  }
}

void check_schema(const RecipeJson& version) {
  if (version.integer() != kSchema) version.fail(fmt::format("schema {}; this program reads {}", version.integer(), kSchema));
}

}  // namespace

std::string write_modelopt(const KvRecipe& recipe) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::object();
  const std::vector<KvBits> bits = bits_by_layer(recipe, "modelopt");
  for (size_t layer = 0; layer < bits.size(); ++layer) {
    if (bits[layer] == kPlain) continue;
    const auto name = type_name(kAlgorithms, bits[layer]);
    if (!name)
      cannot_write("modelopt", fmt::format("layer {} has {}", layer, shown(bits[layer])),
                   "it knows 16/16, 8/8, 4/4 and 8/4 bits for keys/values: search a recipe with these alone");
    layers[fmt::format("model.layers.{}.self_attn", layer)] = {{"quant_algo", *name}};
  }
  if (layers.empty()) cannot_write("modelopt", "every layer is left at 16 bits", "leave the checkpoint as it is");
  const nlohmann::ordered_json document = {
      {"producer", {{"name", "trimtab"}, {"version", TRIMTAB_VERSION}}},
      {"quantization", {{"kv_cache_quant_algo", "MIXED_PRECISION"}, {"kv_cache_schema_version", kSchema}, {"kv_cache_quantized_layers", layers}}}};
  return document.dump(2) + "\n";
}

KvRecipe read_modelopt(const std::string& text, const std::string& file, const KvRecipe& rest) {
  const nlohmann::json document = parse_recipe_json(text, file);
  const RecipeJson quantization = RecipeJson(document, file).at("quantization");
  check_kv_keys(quantization);
  check_schema(quantization.at("kv_cache_schema_version"));
  const std::string common = quantization.at("kv_cache_quant_algo").text();
  if (common != "MIXED_PRECISION") bits_of_type(kAlgorithms, common, file);
  const RecipeJson layers = quantization.at("kv_cache_quantized_layers");
  if (layers.object().empty()) layers.fail("no layer; expected those that are quantised");
  KvRecipe out = rest;
  out.bits.assign(rest.model.layers, kPlain);
  std::vector<bool> seen(rest.model.layers);
  for (const auto& [name, value] : layers.object().items()) {
    const auto layer = layer_of(name, rest.model.layers);
    const RecipeJson entry = layers.at(name);
    if (!layer) entry.fail(fmt::format("expected a name such as model.layers.0.self_attn with a layer from 0 to {}", rest.model.layers - 1));
    if (seen[*layer]) entry.fail(fmt::format("layer {} is there twice under different names; remove one", *layer));
    seen[*layer] = true;
    entry.only_keys({"quant_algo"});
    const RecipeJson algorithm = entry.at("quant_algo");
    if (common != "MIXED_PRECISION" && algorithm.text() != common)
      algorithm.fail(fmt::format("'{}', but kv_cache_quant_algo says that all are {}", printable(algorithm.text()), common));
    out.bits[*layer] = bits_of_type(kAlgorithms, algorithm.text(), file);
  }
  return out;
}

}  // namespace trimtab
