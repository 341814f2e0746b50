// Recordings of what a draft model would propose, everywhere in texts that its target sampled: what controllers of the draft length are
// trained and compared on (envs/draft_length/recorded.h has the columns).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/pool.h"
#include "core/recording.h"
#include "engine/generation/generator.h"

namespace trimtab {

struct DraftRecorderOptions {
  int64_t depth = 12;        // drafted tokens behind every position
  SamplingOptions sampling;  // of the texts, and of the drafts
  bool hidden = true;        // the draft's hidden states too
  uint64_t seed = 1;
};
struct RecordedText {
  std::vector<int32_t> prompt, tokens;   // tokens: what the target sampled with the same sampling options
  std::map<std::string, std::string> labels;
};

// Columns and episodes, one per text; facts are the caller's. ConfigError when vocabularies differ; DataError naming the text when prompt,
// answer and drafts exceed the positions of either model. progress(texts) now and then.
Recording record_drafts(const Transformer& target, const Transformer& draft, const std::vector<RecordedText>& texts, const DraftRecorderOptions& options, Pool& pool,
                        const std::function<void(int64_t)>& progress = {});

// Milliseconds of a pass of one sequence over 1, 2, ... `rows` tokens behind `context` cached ones: medians, when nothing else runs here.
std::vector<double> measure_pass_ms(const Transformer& model, int64_t context, int64_t rows, Pool& pool);

}  // namespace trimtab
