#include "policies/language/lora.h"

#include <fmt/ranges.h>

#include <set>

#include "core/error.h"
#include "policies/language/transformer.h"

namespace trimtab {
namespace {

std::string layer_of(const std::string& weight) { return weight.substr(0, weight.size() - std::string(".weight").size()); }

bool is_linear(const std::string& name, const std::vector<int64_t>& shape) { return shape.size() == 2 && name != "model.embed_tokens.weight"; }

bool matches(const std::string& layer, const std::string& target) { return layer == target || layer.ends_with("." + target); }

}  // namespace

std::vector<std::string> adapted_layers(const LoraConfig& lora, const TransformerConfig& base) {
  std::vector<std::string> out;
  for (const auto& [name, shape] : parameter_shapes(base)) {
    if (!is_linear(name, shape)) continue;
    for (const std::string& target : lora.targets) {
      if (!matches(layer_of(name), target)) continue;
      out.push_back(layer_of(name));
      break;
    }
  }
  return out;
}

void check_targets(const LoraConfig& lora, const TransformerConfig& base) {
  std::set<std::string> known;
  for (const auto& [name, shape] : parameter_shapes(base))
    if (is_linear(name, shape)) known.insert(layer_of(name).substr(layer_of(name).rfind('.') + 1));
  for (const std::string& target : lora.targets) {
    LoraConfig alone = lora;
    alone.targets = {target};
    if (adapted_layers(alone, base).empty())
      throw ConfigError(fmt::format("target '{}' is no linear layer of the model; it has {}", target, fmt::join(known, ", ")));
  }
  if (lora.targets.empty()) throw ConfigError(fmt::format("no targets: name linear layers of the model ({})", fmt::join(known, ", ")));
}

std::vector<std::pair<std::string, std::vector<int64_t>>> adapter_shapes(const LoraConfig& lora, const TransformerConfig& base) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [name, shape] : parameter_shapes(base)) shapes.emplace(layer_of(name), shape);
  std::vector<std::pair<std::string, std::vector<int64_t>>> out;
  for (const std::string& layer : adapted_layers(lora, base)) {
    out.push_back({layer + ".lora_A.weight", {lora.rank, shapes.at(layer)[1]}});
    out.push_back({layer + ".lora_B.weight", {shapes.at(layer)[0], lora.rank}});
  }
  return out;
}

}  // namespace trimtab
