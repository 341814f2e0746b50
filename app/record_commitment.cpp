#include "app/record_commitment.h"

#include <fmt/format.h>

#include "app/commit_choice.h"
#include "core/error.h"
#include "core/recording.h"
#include "envs/token_commit/recorder.h"

namespace trimtab {

int record_commitment(const CommitRecordWords& w) {
  if (w.words.empty()) throw ConfigError("record --commit takes a masked diffusion model: trimtab record MODEL --commit RULE --prompts FILE.jsonl --out TRACES env.length=20");
  const CommitChoice choice = choose_commitment(w.words, w.commit);
  CommitRecordOrder order{.options = choice.options, .files = w.problems};
  order.rule = choice.rule, order.agents = choice.agents;
  if (choice.agents) order.controller = w.commit;
  order.traces = {.share = w.share, .hidden = w.hidden, .seed = w.seed};
  const Recording recording = record_commitment(order);
  write_recording(w.out, recording);
  fmt::print("{} answers, {} rows\nWritten: {}\n", recording.episodes.size(), recording.rows(), w.out);
  return 0;
}

}  // namespace trimtab
