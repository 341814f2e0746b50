#include "app/record_commitment.h"

#include <fmt/format.h>

#include <filesystem>

#include "app/subject.h"
#include "core/error.h"
#include "core/recording.h"
#include "envs/token_commit/recorder.h"

namespace trimtab {

int record_commitment(const CommitRecordWords& w) {
  if (w.words.empty()) throw ConfigError("record --commit takes a masked diffusion model: trimtab record MODEL --commit RULE --prompts FILE.jsonl --out TRACES env.length=20");
  SubjectOptions from{.names = {"none"}, .overrides = {w.words.begin() + 1, w.words.end()}, .config_file = {}};
  const bool learned = std::filesystem::exists(w.commit);
  if (learned) from.names = {w.commit};
  else from.overrides.insert(from.overrides.begin(), "env.type=token_commit");
  from.overrides.push_back("env.model=" + w.words[0]);
  const Subject subject = open_subject(from);
  if (subject.environment != "token_commit") throw ConfigError(fmt::format("{} decides for {}, not for token_commit", w.commit, subject.environment));
  CommitRecordOrder order{.options = token_commit_options(subject.config), .files = w.problems};
  if (learned) order.agents = subject.agents.front(), order.controller = w.commit;
  else order.rule = w.commit;
  order.traces = {.share = w.share, .hidden = w.hidden, .seed = w.seed};
  const Recording recording = record_commitment(order);
  write_recording(w.out, recording);
  fmt::print("{} answers, {} rows\nWritten: {}\n", recording.episodes.size(), recording.rows(), w.out);
  return 0;
}

}  // namespace trimtab
