#include "domain/kv_recipe/format_functions.h"

#include <charconv>

#include "core/error.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {

void cannot_write(const std::string& format, const std::string& fault, const std::string& cure) {
  throw DataError(fmt::format("{} cannot represent the recipe: {}; {}", format, fault, cure));
}

std::string shown(KvBits bits) { return fmt::format("{}-bit keys and {}-bit values", bits.key, bits.value); }

std::vector<KvBits> bits_by_layer(const KvRecipe& recipe, const std::string& format) {
  std::vector<KvBits> out;
  for (int64_t layer = 0; layer < recipe.model.layers; ++layer) {
    const KvBits bits = recipe.at(layer, 0);
    for (int64_t head = 1; head < recipe.model.kv_heads; ++head) {
      if (recipe.at(layer, head) != bits)
        cannot_write(format, fmt::format("the KV heads of layer {} differ (head 0: {}, head {}: {})", layer, shown(bits), head, shown(recipe.at(layer, head))),
                     "search a recipe per layer, or write the format 'kvtuner'");
    }
    if (bits == KvBits{0, 0}) cannot_write(format, fmt::format("layer {} is evicted", layer), "search a recipe without 0 bits");
    out.push_back(bits);
  }
  return out;
}

std::optional<std::string> type_name(std::span<const KvTypeName> types, KvBits bits) {
  for (const KvTypeName& type : types) {
    if (type.bits == bits) return type.name;
  }
  return std::nullopt;
}

KvBits bits_of_type(std::span<const KvTypeName> types, const std::string& name, const std::string& file) {
  std::string known;
  for (const KvTypeName& type : types) {
    if (name == type.name) return type.bits;
    known += known.empty() ? type.name : fmt::format(", {}", type.name);
  }
  throw DataError(fmt::format("{}: the type '{}' has no width of 16, 8, 4 or 2 bits that is known here; expected one of {}", file, printable(name), known));
}

std::optional<int64_t> parse_index(std::string_view text, int64_t end) {
  int64_t index = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  const bool plain = error == std::errc() && stop == text.data() + text.size() && text[0] != '-' && (text[0] != '0' || text.size() == 1);
  return plain && index < end ? std::optional(index) : std::nullopt;
}

std::vector<std::string> words_of(const std::string& text) {
  constexpr std::string_view kSpace = " \t\r\n";
  std::vector<std::string> out;
  for (size_t start = text.find_first_not_of(kSpace); start != std::string::npos;) {
    const size_t end = text.find_first_of(kSpace, start);
    out.push_back(text.substr(start, end - start));
    start = text.find_first_not_of(kSpace, end);
  }
  return out;
}

}  // namespace trimtab
