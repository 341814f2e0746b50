// ik_llama.cpp's flags (ikawrakow/ik_llama.cpp#1599, #1626): types of keys and values, apart from each other, for the first N layers,
// the last N and those between; -khad and -vhad rotate by Hadamard matrices. A flag that is absent means f16, no layers, no rotation.
#include <algorithm>
#include <map>

#include "core/error.h"
#include "domain/kv_recipe/format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr KvTypeName kTypes[] = {{"f16", {16, 16}}, {"q8_0", {8, 8}}, {"q4_0", {4, 4}}, {"bf16", {16, 16}}, {"q8_KV", {8, 8}}, {"q4_1", {4, 4}}, {"iq4_nl", {4, 4}}};

struct WidthRun {
  uint8_t bits;
  int64_t layers;
};

std::string type_of(uint8_t width, const char* part) {
  const auto name = type_name(kTypes, {width, width});
  if (!name) cannot_write("ik_llama", fmt::format("{} of {} bits", part, width), "it knows 16, 8 and 4 bits: search a recipe with these alone");
  return *name;
}

// Flags "-ctk ..." or "-ctv ..." for widths that have at most one other value at either end.
std::string flags_of(const std::vector<uint8_t>& widths, char letter, const char* part) {
  std::vector<WidthRun> runs;
  for (const uint8_t bits : widths) {
    if (runs.empty() || runs.back().bits != bits) runs.push_back({bits, 0});
    ++runs.back().layers;
  }
  if (runs.size() > 3)
    cannot_write("ik_llama", fmt::format("the {} change width {} times from layer to layer", part, runs.size() - 1),
                 "it sets the first, the last and the layers between: give each of these three one width");
  const size_t main = runs.size() == 3 || (runs.size() == 2 && runs[1].layers >= runs[0].layers) ? 1 : 0;
  std::string out = fmt::format("-ct{} {}", letter, type_of(runs[main].bits, part));
  if (main == 1) out += fmt::format(" -ct{}-first {},{}", letter, type_of(runs[0].bits, part), runs[0].layers);
  if (main + 1 < runs.size()) out += fmt::format(" -ct{}-last {},{}", letter, type_of(runs[main + 1].bits, part), runs[main + 1].layers);
  return out;
}

const std::map<std::string, std::string>& short_flags() {
  static const std::map<std::string, std::string> flags = {
      {"--cache-type-k", "-ctk"},       {"--cache-type-k-first", "-ctk-first"}, {"--cache-type-k-last", "-ctk-last"}, {"--k-cache-hadamard", "-khad"},
      {"--cache-type-v", "-ctv"},       {"--cache-type-v-first", "-ctv-first"}, {"--cache-type-v-last", "-ctv-last"}, {"--v-cache-hadamard", "-vhad"}};
  return flags;
}

class CacheFlags {
 public:
  CacheFlags(const std::string& text, const std::string& file) : file_(file) {
    const std::vector<std::string> words = words_of(text);
    if (words.empty()) fail("no flags; expected -ctk TYPE -ctv TYPE ...");
    for (size_t i = 0; i < words.size();) {
      const std::string flag = known(words[i++]);
      const bool bare = flag == "-khad" || flag == "-vhad";
      if (!bare && i == words.size()) fail(fmt::format("nothing after {}", flag));
      if (!values_.emplace(flag, bare ? "" : words[i++]).second) fail(fmt::format("{} is there twice; remove one", flag));
    }
  }
  bool has(const std::string& flag) const { return values_.contains(flag); }

  std::vector<uint8_t> widths(const std::string& flag, int64_t layers) const {   // flag: "-ctk" or "-ctv"
    std::vector<uint8_t> out(layers, has(flag) ? bits_of_type(kTypes, values_.at(flag), file_).key : uint8_t{16});
    const WidthRun first = end(flag + "-first", layers), last = end(flag + "-last", layers);
    if (first.layers + last.layers > layers) fail(fmt::format("{0}-first and {0}-last overlap: the model has {1} layers", flag, layers));
    std::fill(out.begin(), out.begin() + first.layers, first.bits);
    std::fill(out.end() - last.layers, out.end(), last.bits);
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw DataError(fmt::format("{}: {}", file_, what)); }
  std::string known(const std::string& word) const {
    std::vector<std::string> all;
    for (const auto& [long_flag, flag] : short_flags()) {
      if (word == long_flag || word == flag) return flag;
      all.insert(all.end(), {long_flag, flag});
    }
    fail(unknown_key(word, all));
  }
  WidthRun end(const std::string& flag, int64_t layers) const {   // "f16,2"
    if (!has(flag)) return {16, 0};
    const std::string& value = values_.at(flag);
    const size_t comma = value.find(',');
    const auto count = comma == std::string::npos ? std::nullopt : parse_index(value.substr(comma + 1), layers + 1);
    if (!count) fail(fmt::format("{}: expected TYPE,N with N from 0 to {} layers, got '{}'", flag, layers, printable(value)));
    return {bits_of_type(kTypes, value.substr(0, comma), file_).key, *count};
  }
  const std::string& file_;
  std::map<std::string, std::string> values_;   // by short flag
};

}  // namespace

std::string write_ik_llama(const KvRecipe& recipe) {
  std::vector<uint8_t> keys, values;
  for (const KvBits bits : bits_by_layer(recipe, "ik_llama")) {
    keys.push_back(bits.key);
    values.push_back(bits.value);
  }
  return fmt::format("{} {}{}{}\n", flags_of(keys, 'k', "keys"), flags_of(values, 'v', "values"), recipe.hadamard_keys ? " -khad" : "",
                     recipe.hadamard_values ? " -vhad" : "");
}

KvRecipe read_ik_llama(const std::string& text, const std::string& file, const KvRecipe& rest) {
  const CacheFlags flags(text, file);
  const std::vector<uint8_t> keys = flags.widths("-ctk", rest.model.layers), values = flags.widths("-ctv", rest.model.layers);
  KvRecipe out = rest;
  out.hadamard_keys = flags.has("-khad");
  out.hadamard_values = flags.has("-vhad");
  for (int64_t layer = 0; layer < rest.model.layers; ++layer) out.bits[layer] = {keys[layer], values[layer]};
  return out;
}

}  // namespace trimtab
