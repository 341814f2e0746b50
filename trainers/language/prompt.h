// Prompts that a model cannot take, told by where they come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "envs/text_environment.h"
#include "policies/language/transformer.h"

namespace trimtab {

// DataError beginning with `place` when the prompt is empty, holds an id outside the vocabulary, or exceeds
// the model's positions together with a reply of `max_tokens`.
void check_prompt(const std::vector<int32_t>& ids, int64_t max_tokens, const Transformer& transformer,
                  const std::string& place);

// A problem by the beginning of its prompt: "problem '12+4=...'".
std::string named(const Problem& problem);

}  // namespace trimtab
