#include "envs/token_commit/source.h"

#include "core/error.h"
#include "envs/token_commit/answerer.h"
#include "envs/token_commit/recorder.h"

namespace trimtab {

std::unique_ptr<CommitSource> open_commit_source(const TokenCommitOptions& options, const std::vector<std::string>& files, int64_t slots) {
  const auto& modes = Registry<CommitSourceEntry>::instance();
  if (!modes.has(options.mode)) throw ConfigError(fmt::format("mode {} needs a build with LibTorch (scripts/setup, TRIMTAB_TORCH=ON); synthetic does without", options.mode));
  return modes.get(options.mode, "mode").make(options, files, slots);
}

Recording record_commitment(const CommitRecordOrder& order) {
  const auto& recorders = Registry<CommitRecorderEntry>::instance();
  if (!recorders.has(order.options.mode)) throw ConfigError("recording token commitment needs mode live in a build with LibTorch (scripts/setup, TRIMTAB_TORCH=ON)");
  return recorders.get(order.options.mode, "mode").record(order);
}

std::vector<CommitAnswer> answer_with_commitment(const CommitAnswerOrder& order) {
  const auto& answerers = Registry<CommitAnswererEntry>::instance();
  if (!answerers.has(order.options.mode)) throw ConfigError("answering with a masked diffusion model needs mode live in a build with LibTorch (scripts/setup, TRIMTAB_TORCH=ON)");
  return answerers.get(order.options.mode, "mode").answer(order);
}

}  // namespace trimtab
