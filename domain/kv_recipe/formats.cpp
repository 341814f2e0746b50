#include "domain/kv_recipe/formats.h"

#include <algorithm>

#include "core/error.h"
#include "core/registry.h"
#include "core/text.h"
#include "domain/kv_recipe/format_functions.h"

namespace trimtab {
namespace {

constexpr size_t kMostFormatBytes = size_t{512} << 10;   // their words are taken apart: some thirty times the bytes

}  // namespace

const std::vector<KvRecipeFormat>& kv_recipe_formats() {
  static const std::vector<KvRecipeFormat> formats = {
      {"kvtuner", "KVTuner's YAML: 2, 4 or 8 bits for keys and values of every layer or KV head",
       "FlexibleQuantizedCacheConfig(nbits_key=-1, nbits_value=-1, per_layer_quant=True, per_layer_config_path='FILE') or, per KV head, "
       "per_head_quant=True, per_head_config_path='FILE'",
       write_kvtuner, read_kvtuner},
      {"modelopt", "ModelOpt's checkpoint metadata, schema 1: FP8, NVFP4 or FP8 keys with NVFP4 values for every layer that is not 16 bits",
       "merge FILE into the checkpoint's hf_quant_config.json; vllm serve MODEL --kv-cache-dtype auto (reads it from vllm#56116 on)", write_modelopt,
       read_modelopt},
      {"sglang", "SGLang's ranges of layers (sglang#15420, #17530: not in a release), keys and values alike: 0-1:bf16,2-35:fp8_e4m3",
       "python3 -m sglang.launch_server --model-path MODEL --kv-cache-per-layer-dtype TEXT", write_sglang, read_sglang},
      {"tensorrt_llm", "TensorRT-LLM's ranges of layers (TensorRT-LLM#13695: not in a release), keys and values alike: 0-3:fp8,4-35:nvfp4",
       "kv_cache_config: {dtype: \"TEXT\"} in the file given to trtllm-serve MODEL --extra_llm_api_options", write_tensorrt_llm, read_tensorrt_llm},
      {"vllm", "vLLM's flags: one pair of widths for all layers but those left at 16 bits", "vllm serve MODEL TEXT", write_vllm, read_vllm},
      {"ik_llama", "ik_llama.cpp's flags: 16, 8 or 4 bits, the first and the last layers apart from the others", "llama-server -m MODEL.gguf -fa on TEXT",
       write_ik_llama, read_ik_llama},
  };
  return formats;
}

const KvRecipeFormat& kv_recipe_format(const std::string& name) {
  std::vector<std::string> names;
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    if (format.name == name) return format;
    names.push_back(format.name);
  }
  const std::string near = nearest(name, names);
  throw ConfigError(fmt::format("unknown recipe format '{}'; {}", name,
                                near.empty() ? "expected one of " + join(names, ", ") : fmt::format("did you mean '{}'?", near)));
}

std::string write_kv_format(const std::string& format, const KvRecipe& recipe) {
  const KvRecipeFormat& found = kv_recipe_format(format);
  check_recipe(recipe, "the recipe");
  return found.write(recipe);
}

KvRecipe read_kv_format(const std::string& format, const std::string& text, const std::string& file, const KvRecipe& rest) {
  const KvRecipeFormat& found = kv_recipe_format(format);
  if (text.size() > kMostFormatBytes) throw DataError(fmt::format("{}: {} bytes; a recipe in this format has at most {}", file, text.size(), kMostFormatBytes));
  KvRecipe any_bits = rest;   // what reading leans on: a model whose counts are sane
  any_bits.bits.assign(std::max<int64_t>(0, std::min<int64_t>(rest.model.layers, 1 << 20)), KvBits{});
  check_recipe(any_bits, "the recipe that supplies model and quantiser");
  KvRecipe out = found.read(text, file, any_bits);
  if (out.bits != rest.bits) out.bits_per_element = out.kl_to_16bit = std::nullopt;
  check_recipe(out, file);
  return out;
}

}  // namespace trimtab
