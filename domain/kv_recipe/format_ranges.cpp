// Ranges of layers, "0-1:bf16,2-35:fp8", one type for keys and values: SGLang's --kv-cache-per-layer-dtype (sgl-project/sglang#15420,
// #17530) and TensorRT-LLM's kv_cache_config.dtype (NVIDIA/TensorRT-LLM#13695, parse_kv_cache_dtype_spec). Both take a single layer as
// "2:fp8". We write every layer, since what one leaves out falls back to another flag; so `auto`, which does the same, is not read.
#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "domain/kv_recipe/format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr KvTypeName kSglang[] = {{"bf16", {16, 16}},    {"fp8_e4m3", {8, 8}}, {"fp4_e2m1", {4, 4}}, {"bfloat16", {16, 16}},
                                  {"fp8_e5m2", {8, 8}}, {"fp8", {8, 8}},      {"int8", {8, 8}},     {"int4", {4, 4}}};
constexpr KvTypeName kTensorRt[] = {{"bfloat16", {16, 16}}, {"fp8", {8, 8}},    {"nvfp4", {4, 4}}, {"bf16", {16, 16}},
                                    {"float16", {16, 16}},  {"fp16", {16, 16}}, {"int8", {8, 8}}};

std::string write_ranges(const KvRecipe& recipe, const std::string& format, std::span<const KvTypeName> types) {
  const std::vector<KvBits> bits = bits_by_layer(recipe, format);
  std::string out;
  for (size_t first = 0, last = 0; first < bits.size(); first = last + 1) {
    const auto name = type_name(types, bits[first]);
    if (!name)
      cannot_write(format, fmt::format("layer {} has {}", first, shown(bits[first])), "it knows 16, 8 and 4 bits, keys and values alike: search a recipe with these alone");
    for (last = first; last + 1 < bits.size() && bits[last + 1] == bits[first];) ++last;
    out += fmt::format("{}{}{}:{}", out.empty() ? "" : ",", first, first == last ? "" : fmt::format("-{}", last), *name);
  }
  return out + "\n";
}

class RangeReader {
 public:
  RangeReader(const std::string& file, int64_t layers) : file_(file), bits_(layers), seen_(layers) {}

  std::vector<KvBits> read(const std::string& text, std::span<const KvTypeName> types) {
    const std::vector<std::string> words = words_of(text);   // a line end after it, as files have
    if (words.size() != 1) fail("expected one text without spaces, such as 0-1:bf16,2-35:fp8");
    for (const std::string& range : split(words[0], ',')) add(range, types);
    for (size_t layer = 0; layer < seen_.size(); ++layer) {
      if (!seen_[layer]) fail(fmt::format("layer {} is in no range; name the type of all {} layers", layer, seen_.size()));
    }
    return bits_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw DataError(fmt::format("{}: {}", file_, what)); }
  void add(const std::string& range, std::span<const KvTypeName> types) {
    const size_t colon = range.find(':'), dash = range.substr(0, colon).find('-');
    const int64_t layers = static_cast<int64_t>(bits_.size());
    const auto first = parse_index(range.substr(0, std::min(dash, colon)), layers);
    const auto last = dash == std::string::npos ? first : parse_index(range.substr(dash + 1, colon - dash - 1), layers);
    if (colon == std::string::npos || !first || !last || *last < *first)
      fail(fmt::format("expected FIRST-LAST:TYPE with layers from 0 to {}, got '{}'", layers - 1, printable(range)));
    const KvBits bits = bits_of_type(types, range.substr(colon + 1), file_);
    for (int64_t layer = *first; layer <= *last; ++layer) {
      if (seen_[layer]) fail(fmt::format("layer {} is in two ranges; the second is '{}'", layer, printable(range)));
      seen_[layer] = true;
      bits_[layer] = bits;
    }
  }
  const std::string& file_;
  std::vector<KvBits> bits_;
  std::vector<bool> seen_;
};

KvRecipe read_ranges(const std::string& text, const std::string& file, const KvRecipe& rest, std::span<const KvTypeName> types) {
  KvRecipe out = rest;
  out.bits = RangeReader(file, rest.model.layers).read(text, types);
  return out;
}

}  // namespace

std::string write_sglang(const KvRecipe& recipe) { return write_ranges(recipe, "sglang", kSglang); }
std::string write_tensorrt_llm(const KvRecipe& recipe) { return write_ranges(recipe, "tensorrt_llm", kTensorRt); }
KvRecipe read_sglang(const std::string& text, const std::string& file, const KvRecipe& rest) { return read_ranges(text, file, rest, kSglang); }
KvRecipe read_tensorrt_llm(const std::string& text, const std::string& file, const KvRecipe& rest) { return read_ranges(text, file, rest, kTensorRt); }

}  // namespace trimtab
