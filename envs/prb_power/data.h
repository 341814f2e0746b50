// Where the cell's channels come from: trace files, or the built-in fading source.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "domain/radio/trace.h"
#include "envs/prb_power/options.h"

namespace trimtab {

// ConfigError when `data: traces` is set and no file is given.
std::vector<std::shared_ptr<radio::TraceSource>> open_sources(const PrbPowerOptions& options, const std::vector<std::string>& files);

}  // namespace trimtab
