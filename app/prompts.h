// Files of prompts: one JSON object a line.
#pragma once

#include <string>
#include <vector>

#include "trainers/language_tools.h"

namespace trimtab {

// {"prompt": text}, {"question": text} or {"tokens": [ids]}, and {"category": text} if it is in one; other keys are ignored, so that a
// file of problems can be used as it is. DataError naming file and line; also for a file without a prompt.
std::vector<PromptLine> read_prompts(const std::string& file);

}  // namespace trimtab
