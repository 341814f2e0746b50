// Replies and verdicts that ranks share: each makes those of its piece of the requests, and all get all, in the order of the requests. Draws
// belong to requests, so who makes a reply does not matter.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/ranks.h"
#include "engine/generation/generator.h"
#include "envs/text_environment.h"

namespace trimtab {

using Complete = std::function<std::vector<Completion>(std::span<const GenerationRequest> own)>;
std::vector<Completion> complete_over_ranks(std::span<const GenerationRequest> requests, Ranks& ranks, const Complete& complete);

std::vector<Verdict> score_over_ranks(TextEnvironment& environment, std::span<const Problem> problems, std::span<const std::string> texts, Ranks& ranks);

}  // namespace trimtab
