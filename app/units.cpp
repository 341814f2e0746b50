#include "app/units.h"

#include <algorithm>
#include <fstream>

#include "core/registry.h"
#include "envs/environment.h"
#include "policies/controllers/controller.h"
#include "trainers/policy_gradient/options.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

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

std::vector<UnitLine> environments() {
  std::vector<UnitLine> out;
  const auto& registry = Registry<EnvironmentEntry>::instance();
  for (const std::string& name : registry.names())
    out.push_back({"environment", name, registry.get(name, "environment").doc});
  return out;
}

std::vector<UnitLine> presets() {
  std::vector<UnitLine> out;
  const auto& registry = Registry<TrainerPreset>::instance();
  for (const std::string& name : registry.names())
    out.push_back({"trainer preset", name, registry.get(name, "trainer preset").doc});
  return out;
}

// Every key of the trainer block of a controller, with the preset's values as defaults.
std::vector<FieldLine> help_of_preset(const TrainerPreset& preset) {
  TrainerOptions options;
  controller_preset(preset).read(options);
  return help_of(options);
}

const std::vector<UnitLine> kPolicies = {
    {"policy", "set_encoder",
     "permutation-equivariant network over a set of items; on plain vectors a multilayer perceptron"}};

}  // namespace

fs::path source_tree() { return TRIMTAB_SOURCE_DIR; }

std::vector<UnitLine> units_of(const std::string& kind) {
  if (kind == "envs") return environments();
  if (kind == "policies") return kPolicies;
  if (kind == "trainers") return presets();
  if (kind == "kernels") return kernels();
  if (kind == "configs") return configs();
  const std::string near = nearest(kind, kUnitKinds);
  throw ConfigError(
      fmt::format("unknown kind of unit '{}'{}; there are envs, policies, trainers, kernels and configs",
                  kind, near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
}

std::vector<FieldLine> help_of_unit(const std::string& name) {
  for (const UnitLine& policy : kPolicies) {
    if (policy.name == name) return help_of<ControllerOptions>();
  }
  std::vector<std::string> known = {kPolicies[0].name};
  for (const UnitLine& preset : presets()) {
    if (preset.name == name)
      return help_of_preset(Registry<TrainerPreset>::instance().get(name, preset.kind));
    known.push_back(preset.name);
  }
  for (const UnitLine& environment : environments()) {
    if (environment.name == name)
      return Registry<EnvironmentEntry>::instance().get(name, environment.kind).help();
    known.push_back(environment.name);
  }
  const std::string near = nearest(name, known);
  throw ConfigError(fmt::format("nothing is called '{}'{}; `trimtab list` shows what there is", name,
                                near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
}

}  // namespace trimtab
