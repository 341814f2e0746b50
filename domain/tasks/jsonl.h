// Problems from a JSONL file, one object per line: in GSM8K's form, {"question": ..., "answer": "... ####
// 72"}, or {"prompt": ..., "answer": ...} with the bare answer as text or number. Other keys are ignored,
// blank lines skipped. Replies are scored by domain/tasks/answers.h.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "domain/tasks/suite.h"

namespace trimtab {

struct FileProblem {
  Problem problem;       // tier 0; the id is "jsonl:" and the hash of the prompt without regard to spaces
  std::string solution;  // GSM8K: the worked text before "####"; else empty
  int line = 0;
};

// DataError "file:line: what is wrong; what to do" on anything malformed, and on a file without problems.
std::vector<FileProblem> read_jsonl(const std::filesystem::path& file);

// 1 when the reply's final answer (find_answer) equals the problem's.
double score_free_text(const Problem& problem, std::string_view reply);

// The leak check between files: prompts of `held_out` that `train` has too, as "line 12 (also line 7):
// Natalia sold ...".
std::vector<std::string> shared_prompts(const std::vector<FileProblem>& train,
                                        const std::vector<FileProblem>& held_out);

}  // namespace trimtab
