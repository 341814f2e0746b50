// Registration of the environment prb_power.
#include "core/config.h"
#include "core/error.h"
#include "envs/environment.h"
#include "envs/prb_power/cell.h"
#include "envs/prb_power/data.h"

namespace trimtab {

std::vector<std::shared_ptr<radio::TraceSource>> open_sources(const PrbPowerOptions& options, const std::vector<std::string>& files) {
  if (options.data == "synthetic") return {radio::synthetic_trace(options.synthetic)};
  if (files.empty())
    throw ConfigError("prb_power needs channel traces: name files in data.train (and data.validation), or set env.data: synthetic");
  std::vector<std::shared_ptr<radio::TraceSource>> sources;
  for (const std::string& file : files) sources.push_back(radio::open_trace(file, options.trace));
  return sources;
}

namespace {

std::unique_ptr<BatchEnvironment> make(const Config& config, const EnvironmentData& data, int64_t size) {
  PrbPowerOptions options;
  config.read(options, {"type"});
  return std::make_unique<LightBatch<Cell>>(std::make_shared<const Cell>(options, open_sources(options, data.files)), size);
}

std::string resolved(const Config& config) {
  PrbPowerOptions options;
  config.read(options, {"type"});
  return yaml_of(options);
}

TT_REGISTER(EnvironmentEntry, prb_power,
            {.name = "prb_power",
             .doc = "PRB and power allocation of one 5G cell over channel traces",
             .make = make,
             .help = [] { return help_of<PrbPowerOptions>(); },
             .resolved = resolved,
             .preferred_batch = 64});

}  // namespace
}  // namespace trimtab
