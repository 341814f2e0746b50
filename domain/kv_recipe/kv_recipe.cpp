#include "domain/kv_recipe/kv_recipe.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr int64_t kMostLayers = 4096, kMostHeads = 1024, kMostTokens = int64_t{1} << 30;
constexpr int64_t kMostPairs = int64_t{1} << 15;   // what is written must be read again: parse_recipe_json bounds the values
constexpr size_t kLongestText = 1000;

bool is_hash(const std::string& text) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() >= 8 && text.size() <= 128 && std::all_of(text.begin(), text.end(), hex);
}

// Checks one after the other, each with its place in the file.
class Checker {
 public:
  Checker(const KvRecipe& recipe, const std::string& what) : r_(recipe), what_(what) {}

  void check() const {
    text("/name", r_.name);
    text("/created_by", r_.created_by);
    if (!is_hash(r_.model.hash)) fail("/model/hash", fmt::format("expected 8 to 128 lower-case hex digits, found '{}'", printable(r_.model.hash)));
    range("/model/layers", r_.model.layers, 1, kMostLayers);
    range("/model/kv_heads", r_.model.kv_heads, 1, kMostHeads);
    // 8 bits stand for any packed width here: the shape and the quantiser must go together even if no page is packed.
    format("/quantiser", {8, 8});
    range("/sinks", r_.sinks, 0, kMostTokens);
    range("/tail", r_.tail, 0, kMostTokens);
    bits();
    measured("/measured/bits_per_element", r_.bits_per_element, 64);
    measured("/measured/kl_to_16bit", r_.kl_to_16bit, 1e6);
  }

 private:
  [[noreturn]] void fail(const std::string& place, const std::string& fault) const { throw DataError(fmt::format("{}: {}: {}", what_, place, fault)); }
  void range(const char* place, int64_t value, int64_t low, int64_t high) const {
    if (value < low || value > high) fail(place, fmt::format("expected a whole number from {} to {}, found {}", low, high, value));
  }
  void text(const char* place, const std::string& text) const {
    const bool control = std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
    if (text.size() > kLongestText || control || !is_utf8(text)) fail(place, fmt::format("expected one line of UTF-8, at most {} bytes", kLongestText));
  }
  void format(const std::string& place, KvBits bits) const {
    const std::string fault = kv_format_fault({r_.model.head_dim, r_.page_tokens}, r_.quantiser, bits);
    if (!fault.empty()) fail(place, fault);
  }
  void bits() const {
    const auto count = static_cast<int64_t>(r_.bits.size());
    const int64_t layers = r_.model.layers, heads = r_.model.kv_heads;
    if (count != layers && count != layers * heads)
      fail("/bits", fmt::format("{} pairs for {} layers of {} KV heads; expected {} or {}", count, layers, heads, layers, layers * heads));
    if (count > kMostPairs) fail("/bits", fmt::format("{} pairs; a recipe has at most {}", count, kMostPairs));
    for (int64_t i = 0; i < count; ++i)
      format(r_.per_head() ? fmt::format("/bits/{}/{}", i / heads, i % heads) : fmt::format("/bits/{}", i), r_.bits[i]);
  }
  void measured(const char* place, const std::optional<double>& value, double high) const {
    if (value && !(*value >= 0 && *value <= high)) fail(place, fmt::format("expected a number from 0 to {}, found {}", high, *value));
  }
  const KvRecipe& r_;
  const std::string& what_;
};

KvRecipe::Model read_model(const RecipeJson& json) {
  json.only_keys({"hash", "layers", "kv_heads", "head_dim"});
  return {json.at("hash").text(), json.at("layers").integer(), json.at("kv_heads").integer(), json.at("head_dim").integer()};
}

KeyGroups read_key_groups(const RecipeJson& json) {
  if (json.text() == "channel") return KeyGroups::kChannel;
  if (json.text() == "token") return KeyGroups::kToken;
  json.fail(fmt::format("expected 'channel' or 'token', found '{}'", printable(json.text())));
}

void read_quantiser(const RecipeJson& json, KvRecipe& out) {
  json.only_keys({"page_tokens", "key_groups", "value_group", "symmetric", "key_norm", "value_channel_scale", "hadamard_keys", "hadamard_values"});
  out.page_tokens = json.at("page_tokens").integer();
  out.quantiser = {.key_groups = read_key_groups(json.at("key_groups")),
                   .value_group = json.at("value_group").integer(),
                   .symmetric = json.at("symmetric").flag(),
                   .key_norm = json.at("key_norm").flag(),
                   .value_channel_scale = json.at("value_channel_scale").flag()};
  out.hadamard_keys = json.at("hadamard_keys").flag();
  out.hadamard_values = json.at("hadamard_values").flag();
}

uint8_t read_width(const RecipeJson& json) {
  const int64_t bits = json.integer();
  if (bits != 0 && bits != 2 && bits != 4 && bits != 8 && bits != 16) json.fail(fmt::format("expected 16, 8, 4, 2 or 0 bits, found {}", bits));
  return static_cast<uint8_t>(bits);
}

KvBits read_pair(const RecipeJson& json) {
  if (json.size() != 2) json.fail(fmt::format("expected [bits of keys, bits of values], found a list of {}", json.size()));
  return {read_width(json.element(0)), read_width(json.element(1))};
}

std::vector<KvBits> read_bits(const RecipeJson& json, const KvRecipe::Model& model) {
  const size_t layers = json.size();
  if (static_cast<int64_t>(layers) != model.layers)
    json.fail(fmt::format("expected one entry for each of the {} layers that /model/layers says, found {}", model.layers, layers));
  const bool per_head = layers > 0 && json.element(0).is_list() && json.element(0).size() > 0 && json.element(0).element(0).is_list();
  std::vector<KvBits> out;
  for (size_t i = 0; i < layers; ++i) {
    const RecipeJson layer = json.element(i);
    if (!per_head) {
      out.push_back(read_pair(layer));
      continue;
    }
    if (static_cast<int64_t>(layer.size()) != model.kv_heads)
      layer.fail(fmt::format("expected a pair for each of the {} KV heads that /model/kv_heads says, found {}", model.kv_heads, layer.size()));
    for (size_t head = 0; head < layer.size(); ++head) out.push_back(read_pair(layer.element(head)));
  }
  return out;
}

void read_measured(const RecipeJson& json, KvRecipe& out) {
  json.only_keys({"bits_per_element", "kl_to_16bit"});
  if (const auto bits = json.find("bits_per_element")) out.bits_per_element = bits->number();
  if (const auto kl = json.find("kl_to_16bit")) out.kl_to_16bit = kl->number();
}

using OrderedJson = nlohmann::ordered_json;

OrderedJson pairs_json(const KvRecipe& recipe, int64_t layer) {
  const auto pair = [](KvBits bits) { return OrderedJson::array({bits.key, bits.value}); };
  if (!recipe.per_head()) return pair(recipe.at(layer, 0));
  OrderedJson out = OrderedJson::array();
  for (int64_t head = 0; head < recipe.model.kv_heads; ++head) out.push_back(pair(recipe.at(layer, head)));
  return out;
}

// Without the bits, which are written a layer a line so that two recipes can be compared line by line.
OrderedJson facts_json(const KvRecipe& r) {
  OrderedJson out = {{"kv_recipe_version", KvRecipe::kVersion}};
  if (!r.name.empty()) out["name"] = r.name;
  if (!r.created_by.empty()) out["created_by"] = r.created_by;
  out["model"] = {{"hash", r.model.hash}, {"layers", r.model.layers}, {"kv_heads", r.model.kv_heads}, {"head_dim", r.model.head_dim}};
  out["quantiser"] = {{"page_tokens", r.page_tokens},
                      {"key_groups", r.quantiser.key_groups == KeyGroups::kChannel ? "channel" : "token"},
                      {"value_group", r.quantiser.value_group},
                      {"symmetric", r.quantiser.symmetric},
                      {"key_norm", r.quantiser.key_norm},
                      {"value_channel_scale", r.quantiser.value_channel_scale},
                      {"hadamard_keys", r.hadamard_keys},
                      {"hadamard_values", r.hadamard_values}};
  out["sinks"] = r.sinks;
  out["tail"] = r.tail;
  if (r.bits_per_element) out["measured"]["bits_per_element"] = *r.bits_per_element;
  if (r.kl_to_16bit) out["measured"]["kl_to_16bit"] = *r.kl_to_16bit;
  return out;
}

std::string shown(const KvRecipe::Model& m) {
  return fmt::format("{} layers, {} KV heads of {} numbers, hash {}", m.layers, m.kv_heads, m.head_dim, m.hash.empty() ? "unknown" : printable(m.hash, 128));
}

}  // namespace

void check_recipe(const KvRecipe& recipe, const std::string& what) { Checker(recipe, what).check(); }

void check_recipe_fits(const KvRecipe& recipe, int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& model_hash) {
  const KvRecipe::Model model{model_hash, layers, kv_heads, head_dim};
  if (recipe.model == model) return;
  const std::string name = recipe.name.empty() ? "" : fmt::format(" '{}'", recipe.name);
  throw DataError(fmt::format("the recipe{} is for another model: it was made for {}; this model has {}. Search a recipe for this model, or load the other",
                              name, shown(recipe.model), shown(model)));
}

KvRecipe parse_kv_recipe(const std::string& text, const std::string& file) {
  if (text.size() > KvRecipe::kMaxBytes) throw DataError(fmt::format("{}: {} bytes; a recipe has at most {}", file, text.size(), KvRecipe::kMaxBytes));
  const nlohmann::json document = parse_recipe_json(text, file);
  const RecipeJson json(document, file);
  // The version before all else: a later one may have keys that are unknown here.
  const RecipeJson version = json.at("kv_recipe_version");
  if (version.integer() != KvRecipe::kVersion) version.fail(fmt::format("version {}; this program reads {}", version.integer(), KvRecipe::kVersion));
  json.only_keys({"kv_recipe_version", "name", "created_by", "model", "quantiser", "sinks", "tail", "bits", "measured"});
  KvRecipe out;
  if (const auto name = json.find("name")) out.name = name->text();
  if (const auto maker = json.find("created_by")) out.created_by = maker->text();
  out.model = read_model(json.at("model"));
  read_quantiser(json.at("quantiser"), out);
  out.sinks = json.at("sinks").integer();
  out.tail = json.at("tail").integer();
  out.bits = read_bits(json.at("bits"), out.model);
  if (const auto measured = json.find("measured")) read_measured(*measured, out);
  check_recipe(out, file);
  return out;
}

KvRecipe read_kv_recipe(const std::filesystem::path& file) {
  // The size first: a device or a huge file is not worth reading.
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  if (error) throw DataError(fmt::format("{}: cannot be read: {}", file.string(), error.message()));
  if (bytes > KvRecipe::kMaxBytes) throw DataError(fmt::format("{}: {} bytes; a recipe has at most {}", file.string(), bytes, KvRecipe::kMaxBytes));
  return parse_kv_recipe(read_file(file), file.string());
}

std::string kv_recipe_json(const KvRecipe& recipe) {
  check_recipe(recipe, "the recipe");
  const OrderedJson facts = facts_json(recipe);
  std::string out = "{\n";
  for (const auto& [key, value] : facts.items()) out += fmt::format("  {}: {},\n", OrderedJson(key).dump(), value.dump());
  out += "  \"bits\": [";
  for (int64_t layer = 0; layer < recipe.model.layers; ++layer) out += (layer == 0 ? "\n    " : ",\n    ") + pairs_json(recipe, layer).dump();
  return out + "\n  ]\n}\n";
}

void write_kv_recipe(const KvRecipe& recipe, const std::filesystem::path& file) { write_file_atomically(file, kv_recipe_json(recipe)); }

std::vector<KvBits> recipe_widths(const KvRecipe& r) {
  std::vector<KvBits> out;
  for (int64_t l = 0; l < r.model.layers; ++l)
    for (int64_t h = 0; h < r.model.kv_heads; ++h) out.push_back(r.at(l, h));
  return out;
}

}  // namespace trimtab
