// `trimtab record MODEL --commit RULE|RUN|ARTEFACT ...`: passes of a masked diffusion model, for supervised controllers of token commitment.
#pragma once

#include <string>
#include <vector>

namespace trimtab {

struct CommitRecordWords {
  std::vector<std::string> words;     // the model, then env.KEY=VALUE
  std::vector<std::string> problems;  // .jsonl files
  std::string commit, out;
  double share = 1;                   // of passes that are stored
  bool hidden = false;
  uint64_t seed = 1;
};
int record_commitment(const CommitRecordWords& words);

}  // namespace trimtab
