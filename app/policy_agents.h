// A trained run's policies as an evaluator sees them: the mode of each agent's distribution, for any number
// of items.
#pragma once

#include <filesystem>
#include <string>

#include "envs/evaluation.h"

namespace trimtab {

// `which`: "best", "latest" or a step. Loads once; the factory may be called from any thread.
AgentFactory policy_agents(const std::filesystem::path& run_folder, const std::string& which);

}  // namespace trimtab
