// Registration of kv_precision.
#include "envs/kv_precision/layers.h"

namespace trimtab {

KvPrecisionOptions kv_precision_options(const Config& config) {
  KvPrecisionOptions options;
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
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               return std::make_unique<LightBatch<KvLayers>>(std::make_shared<KvLayers>(kv_precision_options(config), open_sensitivities(data.files)), size);
             },
             .help = [] { return help_of<KvPrecisionOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(kv_precision_options(config)); },
             .preferred_batch = 64});

}  // namespace trimtab
