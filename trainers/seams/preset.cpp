// From a preset to one tree of keys; see preset.h.
#include "trainers/seams/preset.h"

#include "core/error.h"

namespace trimtab {
namespace {

Config merged(const TrainerPreset& preset, const std::string& own, const char* family) {
  if (own.empty()) throw ConfigError(fmt::format("preset '{}' does not train {}", preset.name, family));
  const std::string name = "preset " + preset.name;
  const Config common = preset.common.empty() ? Config::empty(name) : Config::parse(preset.common, name);
  return common.merged_with(Config::parse(own, name));
}

}  // namespace

Config controller_preset(const TrainerPreset& preset) { return merged(preset, preset.yaml, "controllers"); }

Config language_preset(const TrainerPreset& preset) {
  return merged(preset, preset.language, "language models");
}

}  // namespace trimtab
