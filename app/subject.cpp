#include "app/subject.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/policy_agents.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "envs/artefact_agents.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

// Overrides as an evaluation takes them: they change the world (env.*), never what was trained.
void apply_overrides(Config& config, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    const std::string key = text.substr(text.find_first_not_of("+~"));
    if (!key.starts_with("env.") && !key.starts_with("env="))
      throw ConfigError(fmt::format(
          "override '{}': an evaluation can only change the environment; write env.KEY=VALUE", text));
    config.apply(text);
  }
}

std::string only_environment() {
  const std::vector<std::string> names = Registry<EvaluatorEntry>::instance().names();
  if (names.size() == 1) return names[0];
  throw ConfigError(fmt::format("say which environment: env.type=NAME with one of {}, or --config FILE",
                                fmt::join(names, ", ")));
}

Subject baselines(const SubjectOptions& options) {
  Config config =
      options.config_file.empty() ? Config::empty("the command line") : Config::load(options.config_file);
  apply_overrides(config, options.overrides);
  Subject out;
  out.environment = config.has("env.type") ? config.text("env.type", "") : only_environment();
  out.config = config.at("env");
  return out;
}

// What must be equal for two runs to be training seeds of one experiment.
std::string experiment_of(const Config& config) {
  std::string out;
  for (const char* block : {"env", "policy", "trainer", "phases", "data"}) {
    if (config.has(block)) out += config.at(block).yaml();
  }
  return out;
}

Subject from_runs(const SubjectOptions& options) {
  TrainedRuns runs = open_runs(options);
  Subject out;
  for (const std::string& run : options.names) out.agents.push_back(policy_agents(run, options.checkpoint));
  out.environment = runs.config.text("env.type", "");
  out.config = runs.config.at("env");
  out.manifest = std::move(runs.manifest);
  return out;
}

bool is_artefact(const std::string& name) { return name.ends_with(".safetensors") || name.ends_with(".ttc"); }

Subject from_artefact(const SubjectOptions& options) {
  const std::string& file = options.names[0];
  if (options.names.size() > 1)
    throw ConfigError("one exported artefact is evaluated at a time; several subjects must be runs");
  if (!fs::exists(file)) throw DataError(fmt::format("{}: no such file", file));
  const ArtefactOrigin origin = artefact_origin(file);
  Subject out;
  out.environment = origin.environment;
  Config config = Config::parse("env:\n" + indented(origin.config), file);  // as in a configuration
  apply_overrides(config, options.overrides);
  out.config = config.at("env");
  out.agents.push_back(artefact_agents(file));
  for (const std::string& hash : split(origin.training_data_hash, ' ')) {
    if (!hash.empty()) out.manifest.push_back({"a file named in the artefact", hash, "train"});
  }
  return out;
}

}  // namespace

Subject open_subject(const SubjectOptions& options) {
  if (options.names.empty())
    throw ConfigError(
        "say what to evaluate: a run folder, an exported artefact, or none for the baselines alone");
  for (const std::string& name : options.names) {
    if (name == "none" && options.names.size() > 1)
      throw ConfigError("none stands alone: it evaluates the baselines without a learned policy");
  }
  if (options.names[0] == "none") return baselines(options);
  return is_artefact(options.names[0]) ? from_artefact(options) : from_runs(options);
}

TrainedRuns open_runs(const SubjectOptions& options) {
  TrainedRuns out;
  std::string experiment;
  for (const std::string& name : options.names) {
    check_run_folder(name);
    out.config = Config::load(fs::path(name) / "config.yaml");
    if (experiment.empty()) experiment = experiment_of(out.config);
    if (experiment_of(out.config) != experiment)
      throw ConfigError(
          fmt::format("{} and {} are not training seeds of one experiment: their configurations differ "
                      "beyond the run block; "
                      "evaluate them one by one",
                      options.names[0], name));
    for (const TrainingFile& file : training_manifest(name)) out.manifest.push_back(file);
  }
  apply_overrides(out.config, options.overrides);
  return out;
}

void check_run_folder(const std::string& folder) {
  if (!fs::exists(folder)) throw DataError(fmt::format("{}: no such run folder", folder));
  if (!fs::exists(fs::path(folder) / "config.yaml") || !fs::is_directory(fs::path(folder) / "checkpoints"))
    throw DataError(fmt::format("{}: not a run folder (config.yaml or checkpoints/ is missing)", folder));
}

std::vector<TrainingFile> training_manifest(const std::string& run_folder) {
  const fs::path file = fs::path(run_folder) / "provenance.json";
  const nlohmann::json provenance = nlohmann::json::parse(read_file(file), nullptr, false);
  if (!provenance.is_object() || !provenance.contains("data"))
    throw DataError(fmt::format(
        "{}: does not say what the run was trained on, so nothing can be called held out", file.string()));
  std::vector<TrainingFile> out;
  for (const auto& line : provenance["data"]) {
    if (!line.is_object())
      throw DataError(fmt::format("{}: its list of data files is damaged", file.string()));
    out.push_back({line.value("file", ""), line.value("hash", ""), line.value("split", "")});
  }
  return out;
}

std::vector<std::string> check_held_out(const std::vector<TrainingFile>& manifest,
                                        const std::vector<std::string>& files, bool allow_validation) {
  std::vector<std::string> splits;
  for (const std::string& file : files) {
    if (!fs::exists(file)) throw DataError(fmt::format("{}: no such file", file));
    std::string split = "held-out";
    const std::string hash = hash_file(file);
    for (const TrainingFile& seen : manifest) {
      if (seen.hash != hash) continue;
      if (seen.split == "validation" && allow_validation) {
        split = "validation";
        continue;
      }
      throw DataError(fmt::format(
          "{}: this file is in the run's training manifest ({} split, as {}), so a result on it would "
          "not be held out; evaluate on another{}",
          file, seen.split, seen.file,
          seen.split == "validation" ? ", or give --allow-validation to tune on it" : ""));
    }
    splits.push_back(split);
  }
  return splits;
}

std::vector<std::string> check_held_out(const Subject& subject, const std::vector<std::string>& files,
                                        bool allow_validation) {
  std::vector<std::string> splits = check_held_out(subject.manifest, files, allow_validation);
  if (subject.agents.empty()) splits.assign(files.size(), "unchecked");
  return splits;
}

}  // namespace trimtab
