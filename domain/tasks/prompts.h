// Files of prompts: one JSON object a line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trimtab {

struct PromptLine {
  std::string place;            // for messages: "prompts.jsonl:3", "--prompt"
  std::string text;             // UTF-8; empty when tokens are given
  std::vector<int32_t> tokens;  // the prompt as ids, taken as they are
  std::string category = {};    // that a file of prompts says it is in
  std::string adapter = {};     // that is to answer it, where a file says so; empty: the model itself
};

// {"prompt": text}, {"question": text} or {"tokens": [ids]}, and {"category": text} if it is in one, {"adapter": name} if one is to answer;
// other keys are ignored, so that a file of problems can be used as it is. DataError naming file and line; also for a file without a prompt.
std::vector<PromptLine> read_prompts(const std::string& file);

}  // namespace trimtab
