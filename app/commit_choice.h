// Who commits the tokens of a masked diffusion model: `--commit RULE|RUN|ARTEFACT` with env.KEY=VALUE behind the model.
#pragma once

#include <string>
#include <vector>

#include "envs/evaluation.h"
#include "envs/token_commit/options.h"

namespace trimtab {

struct CommitChoice {
  TokenCommitOptions options;   // those that a run or artefact was trained with, overrides applied
  std::string rule;             // empty: the agents'
  AgentFactory agents;
};
// words: the model, then overrides. ConfigError for a controller of another environment.
CommitChoice choose_commitment(const std::vector<std::string>& words, const std::string& commit);

}  // namespace trimtab
