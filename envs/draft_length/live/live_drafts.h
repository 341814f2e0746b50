// A pair of models that decodes prompts while an agent decides how many tokens are drafted: mode live. Rounds are those of
// engine/speculative: drafts from q, exact rejection sampling against p, so the answers have the target's law whatever the agent does.
//
// What a place needs to go on is in it (DraftPlace: the answer's tokens); keys and values are kept for the places stepped lately and
// computed anew for others. The target is asked only when a round is judged.
#pragma once

#include <memory>
#include <vector>

#include "domain/tasks/prompts.h"
#include "envs/draft_length/live_options.h"
#include "envs/draft_length/source.h"
#include "policies/language/pretrained.h"

namespace trimtab {

// ConfigError when the models make no pair, DataError for prompts that leave no room. Thread-safe.
std::unique_ptr<DraftSource> make_live_drafts(LanguageModel target, LanguageModel draft, const std::vector<PromptLine>& prompts, const LiveDraftOptions& options);

}  // namespace trimtab
