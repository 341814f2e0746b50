// KVTuner's YAML (cmd2001/KVTuner: calibration_presets/, flexible_quant/flexible_quantized_cache.py), as its presets are written:
//   0:                                  per KV head:   0:
//     nbits_key: 4                                       0:
//     nbits_value: 8                                       nbits_key: 4
//                                                          nbits_value: 8
// The cache walks over heads in the order of the file. Its quantisers know 2, 4 and 8 bits.
#include "core/config.h"
#include "core/error.h"
#include "domain/kv_recipe/format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

std::string pair_lines(KvBits bits, int indent, const std::string& place) {
  if (bits.key == 16 || bits.value == 16 || bits.key == 0)
    cannot_write("kvtuner", fmt::format("{} has {}", place, shown(bits)), "its caches know 2, 4 and 8 bits: search a recipe with these alone");
  return fmt::format("{0:{1}}nbits_key: {2}\n{0:{1}}nbits_value: {3}\n", "", indent, bits.key, bits.value);
}

class KvTunerReader {
 public:
  KvTunerReader(const Config& yaml, const KvRecipe& rest) : yaml_(yaml), rest_(rest) {}

  std::vector<KvBits> read() const {
    const int64_t layers = rest_.model.layers, heads = rest_.model.kv_heads;
    check_indices("", layers, "layer");
    const bool per_head = !yaml_.has("0.nbits_key") && !yaml_.has("0.nbits_value");
    std::vector<KvBits> out;
    for (int64_t layer = 0; layer < layers; ++layer) {
      const std::string place = fmt::format("{}", layer);
      if (!per_head) {
        out.push_back(pair(place));
        continue;
      }
      check_indices(place, heads, "KV head");
      for (int64_t head = 0; head < heads; ++head) out.push_back(pair(fmt::format("{}.{}", place, head)));
    }
    return out;
  }

 private:
  // The keys of the map are 0 to count - 1, each once (the parser refuses a second).
  void check_indices(const std::string& path, int64_t count, const char* what) const {
    const std::vector<std::string> keys = (path.empty() ? yaml_ : yaml_.at(path)).keys();
    for (const std::string& key : keys) {
      if (!parse_index(key, count)) yaml_.fail(path, fmt::format("expected {}s from 0 to {}, got '{}'", what, count - 1, printable(key)));
    }
    if (static_cast<int64_t>(keys.size()) != count) yaml_.fail(path, fmt::format("{} of {} {}s; each needs its widths", keys.size(), count, what));
  }
  KvBits pair(const std::string& path) const {
    for (const std::string& key : yaml_.at(path).keys()) {
      if (key != "nbits_key" && key != "nbits_value") yaml_.fail(path, unknown_key(key, {"nbits_key", "nbits_value"}));
    }
    return {width(path + ".nbits_key"), width(path + ".nbits_value")};
  }
  uint8_t width(const std::string& path) const {
    if (!yaml_.has(path)) yaml_.fail(path, "is missing; expected 2, 4 or 8");
    const std::string text = yaml_.text(path, "");
    if (text != "2" && text != "4" && text != "8") yaml_.fail(path, fmt::format("expected 2, 4 or 8, got '{}'", printable(text)));
    return static_cast<uint8_t>(text[0] - '0');
  }
  const Config& yaml_;
  const KvRecipe& rest_;
};

}  // namespace

std::string write_kvtuner(const KvRecipe& recipe) {
  constexpr size_t kMostPairs = 5000;   // what is written must be read again, and YAML is read up to kConfigMaxValues (core/config_tree.h)
  if (recipe.bits.size() > kMostPairs)
    cannot_write("kvtuner", fmt::format("{} pairs of widths, more than {}", recipe.bits.size(), kMostPairs), "search a recipe per layer");
  std::string out;
  for (int64_t layer = 0; layer < recipe.model.layers; ++layer) {
    out += fmt::format("{}:\n", layer);
    if (!recipe.per_head()) out += pair_lines(recipe.at(layer, 0), 2, fmt::format("layer {}", layer));
    for (int64_t head = 0; recipe.per_head() && head < recipe.model.kv_heads; ++head)
      out += fmt::format("  {}:\n", head) + pair_lines(recipe.at(layer, head), 4, fmt::format("layer {}, KV head {},", layer, head));
  }
  return out;
}

KvRecipe read_kvtuner(const std::string& text, const std::string& file, const KvRecipe& rest) {
  KvRecipe out = rest;
  try {
    const Config yaml = Config::parse(text, file);
    out.bits = KvTunerReader(yaml, rest).read();
  } catch (const ConfigError& error) {
    throw DataError(error.what());   // a file that somebody made, not the user's configuration
  }
  return out;
}

}  // namespace trimtab
