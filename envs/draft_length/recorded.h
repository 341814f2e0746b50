// Drafts recorded from a real pair of models (`trimtab record`): at every position of texts that the target sampled, what the draft would
// continue with, and with which probability the target takes it. Columns of the recording (core/recording.h), one row per position:
//
//   token          [rows] i64           the text's token
//   target_entropy [rows] nat           of the target's distribution that it came from
//   draft_token    [rows, K] i64        drawn from q one after the other
//   accept         [rows, K] in [0, 1]  min(1, p / q) of that token
//   alpha          [rows, K] in [0, 1]  sum over the vocabulary of min(p, q)
//   logprob        [rows, K] <= 0       ln q of that token
//   entropy, top, margin  [rows, K]     of q
//   hidden         [rows, K * D]        optional: the draft's final hidden state that q came from
//
// Row r holds the drafts that start at text position r: the first takes the place of token r. Replay goes on along the recorded text after
// a round, whatever the round's own tokens were: exact for greedy decoding, and otherwise an approximation whose size
// experiments/draft_length measures.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/recording.h"
#include "envs/draft_length/source.h"

namespace trimtab {

std::unique_ptr<DraftSource> open_draft_recordings(const std::vector<std::string>& files);   // DataError; ConfigError for none

}  // namespace trimtab
