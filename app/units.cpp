#include "app/units.h"

#include <algorithm>
#include <fstream>

#include "core/registry.h"
#include "envs/environment.h"
#include "envs/text_environment.h"
#include "policies/controllers/controller.h"
#include "trainers/language_tools.h"
#include "trainers/policy_gradient/options.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr const char *kSetEncoder = "set_encoder", *kTransformer = "transformer";

// The first comment line of a file, without its marks: every unit's header and every configuration opens with
// what it is.
std::string first_comment(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line)) {
    const size_t start = line.find_first_not_of("/# ");
    if (!line.empty() && (line[0] == '/' || line[0] == '#') && start != std::string::npos &&
        line[start] != '!')
      return line.substr(start);
    if (!line.empty() && line[0] != '/' && line[0] != '#') break;
  }
  return "";
}

std::vector<fs::path> sorted(const fs::path& folder, bool recursive) {
  std::vector<fs::path> out;
  if (!fs::is_directory(folder)) return out;
  if (recursive) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) out.push_back(entry.path());
  } else {
    for (const auto& entry : fs::directory_iterator(folder)) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<UnitLine> kernels() {
  std::vector<UnitLine> out;
  for (const fs::path& folder : sorted(source_tree() / "kernels", false)) {
    const fs::path header = folder / (folder.filename().string() + ".h");
    if (fs::exists(header)) out.push_back({"kernel", folder.filename().string(), first_comment(header)});
  }
  return out;
}

std::vector<UnitLine> configs() {
  std::vector<UnitLine> out;
  for (const fs::path& file : sorted(source_tree() / "configs", true)) {
    if (file.extension() == ".yaml")
      out.push_back({"config", fs::relative(file, source_tree()).string(), first_comment(file)});
  }
  return out;
}

template <class Entry>
void add_environments(std::vector<UnitLine>& out) {
  const auto& registry = Registry<Entry>::instance();
  for (const std::string& name : registry.names())
    out.push_back({"environment", name, registry.get(name, "environment").doc});
}

std::vector<UnitLine> environments() {
  std::vector<UnitLine> out;
  add_environments<EnvironmentEntry>(out);
  add_environments<TextEnvironmentEntry>(out);
  return out;
}

std::vector<UnitLine> presets() {
  std::vector<UnitLine> out;
  const auto& registry = Registry<TrainerPreset>::instance();
  for (const std::string& name : registry.names())
    out.push_back({"trainer preset", name, registry.get(name, "trainer preset").doc});
  if (!has_language_tools()) return out;
  for (const auto& [name, doc] : language_tools("").learners()) out.push_back({"trainer preset", name, doc});
  return out;
}

std::vector<UnitLine> policies() {
  std::vector<UnitLine> out = {
      {"policy", kSetEncoder,
       "permutation-equivariant network over a set of items; on plain vectors a multilayer perceptron"}};
  if (has_language_tools())
    out.push_back(
        {"policy", kTransformer, "decoder-only transformer (Llama, Qwen2, Qwen3), new or from a folder"});
  return out;
}

// Every key of the trainer block, with the preset's values as defaults.
std::vector<HelpSection> help_of_preset(const std::string& name) {
  std::vector<HelpSection> out;
  bool language = true;
  if (Registry<TrainerPreset>::instance().has(name)) {
    const TrainerPreset& preset = Registry<TrainerPreset>::instance().get(name, "trainer preset");
    language = !preset.language.empty();
    if (!preset.yaml.empty()) {
      TrainerOptions options;
      controller_preset(preset).read(options);
      out.push_back({name + " (controllers)", help_of(options)});
    }
  }
  if (language && has_language_tools())
    out.push_back({name + " (language models)", language_tools("").trainer_help(name)});
  return out;
}

std::vector<HelpSection> help_of_environment(const std::string& name) {
  const auto& text = Registry<TextEnvironmentEntry>::instance();
  if (text.has(name)) return {{name, text.get(name, "environment").help()}};
  return {{name, Registry<EnvironmentEntry>::instance().get(name, "environment").help()}};
}

std::vector<HelpSection> help_of_policy(const std::string& name) {
  if (name == kTransformer) return {{name, language_tools("").policy_help()}};
  return {{name, help_of<ControllerOptions>()}};
}

}  // namespace

fs::path source_tree() { return TRIMTAB_SOURCE_DIR; }

std::vector<UnitLine> units_of(const std::string& kind) {
  if (kind == "envs") return environments();
  if (kind == "policies") return policies();
  if (kind == "trainers") return presets();
  if (kind == "kernels") return kernels();
  if (kind == "configs") return configs();
  const std::string near = nearest(kind, kUnitKinds);
  throw ConfigError(
      fmt::format("unknown kind of unit '{}'{}; there are envs, policies, trainers, kernels and configs",
                  kind, near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
}

std::vector<HelpSection> help_of_unit(const std::string& name) {
  std::vector<std::string> known;
  const auto has = [&](const std::vector<UnitLine>& units) {
    for (const UnitLine& unit : units) known.push_back(unit.name);
    return std::any_of(units.begin(), units.end(), [&](const UnitLine& unit) { return unit.name == name; });
  };
  if (has(policies())) return help_of_policy(name);
  if (has(presets())) return help_of_preset(name);
  if (has(environments())) return help_of_environment(name);
  const std::string near = nearest(name, known);
  throw ConfigError(fmt::format("nothing is called '{}'{}; `trimtab list` shows what there is", name,
                                near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
}

}  // namespace trimtab
