// An exported artefact as an evaluator sees it: what is scored is what is deployed, through the runtime's own calls.
#pragma once

#include <filesystem>
#include <string>

#include "envs/evaluation.h"

namespace trimtab {

// The agents of the file; DataError naming file and defect when the runtime refuses it. Agents of two calls of the
// factory share nothing while both are there, so threads may have their own; the file is opened again only while all it was opened for are in use.
AgentFactory artefact_agents(const std::filesystem::path& file);

// What the file says about its origin.
struct ArtefactOrigin {
  std::string environment, config, training_data_hash;
};
ArtefactOrigin artefact_origin(const std::filesystem::path& file);

}  // namespace trimtab
