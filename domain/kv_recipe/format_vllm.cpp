// vLLM's flags (0.33: vllm/config/cache.py, vllm/model_executor/layers/attention/attention.py): one --kv-cache-dtype, and the layers
// that keep the model's 16 bits. Integer codes with a scale per token and head are nearest to what our recipes are measured with, so
// they are written for 8/8 and 4/4. TurboQuant presets leave the first and last two layers at 16 bits whatever the flags say
// (turboquant/config.py, get_boundary_skip_layers, models without Mamba layers).
#include <algorithm>

#include "core/error.h"
#include "domain/kv_recipe/format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr KvTypeName kTypes[] = {{"auto", {16, 16}},     {"int8_per_token_head", {8, 8}}, {"int4_per_token_head", {4, 4}}, {"turboquant_k8v4", {8, 4}},
                                 {"float16", {16, 16}},  {"bfloat16", {16, 16}},          {"fp8", {8, 8}},                 {"fp8_e4m3", {8, 8}},
                                 {"fp8_e5m2", {8, 8}},   {"fp8_per_token_head", {8, 8}},  {"nvfp4", {4, 4}},               {"nvfp4_4over6", {4, 4}},
                                 {"turboquant_4bit_nc", {4, 4}}};
constexpr KvBits kPlain{16, 16};
const std::string kType = "--kv-cache-dtype", kSkip = "--kv-cache-dtype-skip-layers";

// Whether vLLM leaves the layer at 16 bits by itself.
bool is_boundary(const std::string& type, int64_t layer, int64_t layers) {
  const int64_t end = std::min<int64_t>(2, layers / 2);
  return type.starts_with("turboquant_") && (layer < end || layer >= layers - end);
}

// The one pair of all layers that are not 16 bits.
KvBits common_bits(const std::vector<KvBits>& bits) {
  KvBits common = kPlain;
  for (size_t layer = 0; layer < bits.size(); ++layer) {
    if (bits[layer] == kPlain || bits[layer] == common) continue;
    if (common != kPlain)
      cannot_write("vllm", fmt::format("layer {} has {}, a layer before it {}", layer, shown(bits[layer]), shown(common)),
                   "give all layers that are not 16 bits the same widths, or write the format 'modelopt'");
    common = bits[layer];
  }
  return common;
}

class FlagReader {
 public:
  FlagReader(const std::string& file, int64_t layers) : file_(file), skipped_(layers) {}

  std::vector<KvBits> read(const std::string& text) {
    const std::vector<std::string> words = words_of(text);
    for (size_t i = 0; i < words.size();) {
      const std::string& flag = words[i++];
      if (flag != kType && flag != kSkip) fail(fmt::format("unknown flag '{}'; expected {} and {}", printable(flag), kType, kSkip));
      if (flag == kType ? !type_.empty() : skips_) fail(fmt::format("{} is there twice; remove one", flag));
      if (i == words.size()) fail(fmt::format("nothing after {}", flag));
      if (flag == kType) {
        type_ = words[i++];
        continue;
      }
      skips_ = true;
      while (i < words.size() && !words[i].starts_with("-")) skip(words[i++]);
    }
    if (type_.empty()) fail(fmt::format("{} is missing", kType));
    return bits();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw DataError(fmt::format("{}: {}", file_, what)); }
  void skip(const std::string& word) {
    const auto layer = parse_index(word, static_cast<int64_t>(skipped_.size()));
    if (!layer) fail(fmt::format("{}: expected layers from 0 to {}, got '{}'", kSkip, skipped_.size() - 1, printable(word)));
    skipped_[*layer] = true;
  }
  std::vector<KvBits> bits() const {
    const KvBits common = bits_of_type(kTypes, type_, file_);
    std::vector<KvBits> out(skipped_.size(), common);
    for (size_t layer = 0; layer < out.size(); ++layer) {
      if (skipped_[layer] || is_boundary(type_, layer, out.size())) out[layer] = kPlain;
    }
    return out;
  }
  const std::string& file_;
  std::string type_;
  bool skips_ = false;
  std::vector<bool> skipped_;
};

}  // namespace

std::string write_vllm(const KvRecipe& recipe) {
  const std::vector<KvBits> bits = bits_by_layer(recipe, "vllm");
  const KvBits common = common_bits(bits);
  const auto type = type_name(kTypes, common);
  if (!type) cannot_write("vllm", shown(common), "it knows 8/8, 4/4 and 8/4 bits for keys/values: search a recipe with one of these");
  std::string skipped;
  for (size_t layer = 0; layer < bits.size() && common != kPlain; ++layer) {
    if (bits[layer] == kPlain) {
      skipped += fmt::format(" {}", layer);
    } else if (is_boundary(*type, layer, bits.size())) {
      cannot_write("vllm", fmt::format("layer {} has {}, but with {} vLLM keeps the first and last two layers at 16 bits", layer, shown(bits[layer]), *type),
                   "search a recipe that does so too");
    }
  }
  return fmt::format("{} {}{}\n", kType, *type, skipped.empty() ? "" : fmt::format(" {}{}", kSkip, skipped));
}

KvRecipe read_vllm(const std::string& text, const std::string& file, const KvRecipe& rest) {
  KvRecipe out = rest;
  out.bits = FlagReader(file, rest.model.layers).read(text);
  return out;
}

}  // namespace trimtab
