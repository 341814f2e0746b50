// A learned controller as a CommitControl: what decodes with it, be it trained here or an exported artefact.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "envs/evaluation.h"
#include "envs/token_commit/features.h"
#include "envs/token_commit/token_commit.h"

namespace trimtab {

class AgentCommit final : public CommitControl {
 public:
  // ConfigError when there is no agent "commit", or one that `options` ask for is missing. Without such a key ("window") an agent there is not asked.
  AgentCommit(const TokenCommitOptions& options, int64_t hidden_size, std::map<std::string, std::unique_ptr<AgentFunction>> agents);

  CommitWindow open(const CommitState& state, CommitWindow proposed) override;
  void choose(const CommitState& state, std::vector<int32_t>& picks) override;
  CacheRefresh refresh(const CommitState& state) override;
  int64_t forced() const { return forced_; }   // passes in which the agent left everything out

 private:
  const float* ask(const std::string& agent, const CommitState& state, size_t width);

  TokenCommitOptions options_;
  CommitView view_;
  std::map<std::string, std::unique_ptr<AgentFunction>> agents_;
  CommitActions actions_;
  int64_t forced_ = 0;
  size_t width_ = 0;   // of the commit agent's action
  std::vector<float> context_, items_, action_;
  std::vector<uint8_t> mask_;
};

}  // namespace trimtab
