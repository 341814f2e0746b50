#include "app/commit_choice.h"

#include <fmt/format.h>

#include <filesystem>

#include "app/subject.h"
#include "core/error.h"

namespace trimtab {

CommitChoice choose_commitment(const std::vector<std::string>& words, const std::string& commit) {
  SubjectOptions from{.names = {"none"}, .overrides = {words.begin() + 1, words.end()}, .config_file = {}};
  const bool learned = std::filesystem::exists(commit);
  if (learned) from.names = {commit};
  else from.overrides.insert(from.overrides.begin(), "env.type=token_commit");
  from.overrides.push_back("env.model=" + words[0]);
  const Subject subject = open_subject(from);
  if (subject.environment != "token_commit") throw ConfigError(fmt::format("{} decides for {}, not for token_commit", commit, subject.environment));
  CommitChoice out{.options = token_commit_options(subject.config), .rule = {}, .agents = {}};
  if (learned) out.agents = subject.agents.front();
  else out.rule = commit;
  return out;
}

}  // namespace trimtab
