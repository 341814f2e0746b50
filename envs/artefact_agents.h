// An exported artefact as an evaluator sees it: what is scored is what is deployed, through the runtime's own calls.
#pragma once

#include <filesystem>
#include <string>

#include "envs/evaluation.h"

namespace trimtab {

// The agents of the file; DataError naming file and defect when the runtime refuses it. Every call of the factory opens the
// file for itself, so that threads share nothing.
AgentFactory artefact_agents(const std::filesystem::path& file);

// What the file says about its origin.
struct ArtefactOrigin {
  std::string environment, config, training_data_hash;
};
ArtefactOrigin artefact_origin(const std::filesystem::path& file);

}  // namespace trimtab
