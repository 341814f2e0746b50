// Specs of agents as JSON, so that a checkpoint can be loaded without the environment or its traces.
#pragma once

#include <nlohmann/json.hpp>

#include "core/spec.h"

namespace trimtab {

nlohmann::json to_json(const ObservationSpec& spec);
nlohmann::json to_json(const AgentSpec& spec);
ObservationSpec observation_spec_from(const nlohmann::json& json);  // throws nlohmann::json::exception
AgentSpec agent_spec_from(const nlohmann::json& json);

}  // namespace trimtab
