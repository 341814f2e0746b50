// Registration of kv_precision: its `mode` says which environment is meant.
#include "envs/kv_precision/layers.h"
#include "envs/kv_precision/mode/mode.h"

namespace trimtab {
namespace {

const KvPrecisionMode& mode_of(const Config& config) {
  const std::string name = config.text("mode", "layers");
  const auto& modes = Registry<KvPrecisionMode>::instance();
  if (name == "pages" && !modes.has(name))
    throw ConfigError("env.mode: pages runs a language model, which this build leaves out; build with LibTorch (cmake -DTRIMTAB_TORCH=ON), or use layers");
  return modes.get(name, "mode of kv_precision");
}

// The keys of all modes, each with the mode it belongs to.
std::vector<FieldLine> help_of_modes() {
  std::vector<FieldLine> out;
  for (const std::string& name : Registry<KvPrecisionMode>::instance().names()) {
    const KvPrecisionMode& mode = Registry<KvPrecisionMode>::instance().get(name, "mode");
    for (FieldLine line : mode.help()) {
      if (line.path != "mode") line.doc = fmt::format("mode {}: {}", name, line.doc);
      out.push_back(std::move(line));
    }
  }
  return out;
}

TT_REGISTER(KvPrecisionMode, layers,
            {.name = "layers",
             .doc = "widths for every layer or KV head, once",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               return std::make_unique<LightBatch<KvLayers>>(std::make_shared<KvLayers>(kv_layers_options(config), open_sensitivities(data.files)), size);
             },
             .make_evaluator = make_layers_evaluator,
             .help = [] { return help_of<KvLayersOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(kv_layers_options(config)); }});

}  // namespace

KvLayersOptions kv_layers_options(const Config& config) {
  KvLayersOptions options;
  config.read(options, {"type"});
  return options;
}

std::vector<KvSensitivity> open_sensitivities(const std::vector<std::string>& files) {
  if (files.empty()) throw ConfigError("kv_precision needs tables of sensitivities: name them under data: {train: [...]}; `trimtab measure` makes them");
  std::vector<KvSensitivity> out;
  for (const std::string& file : files) out.push_back(read_sensitivity(file));
  return out;
}

TT_REGISTER(EnvironmentEntry, kv_precision,
            {.name = "kv_precision",
             .doc = "widths of a KV cache's keys and values under a budget of bytes",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) { return mode_of(config).make(config, data, size); },
             .help = help_of_modes,
             .resolved = [](const Config& config) { return mode_of(config).resolved(config); },
             .preferred_batch = 64});

TT_REGISTER(EvaluatorEntry, kv_precision_evaluator,
            {.name = "kv_precision", .make = [](const Config& config, const std::string& file) { return mode_of(config).make_evaluator(config, file); }});

}  // namespace trimtab
