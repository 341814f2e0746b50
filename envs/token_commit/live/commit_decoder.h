// A masked diffusion model that answers problems with any rule of token commitment, or as the oracle would. All meet the same problems.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "domain/tasks/jsonl.h"
#include "engine/diffusion/diffusion_generator.h"
#include "envs/token_commit/comparison.h"
#include "policies/language/pretrained.h"

namespace trimtab {

class CommitDecoder {
 public:
  // ConfigError when the model has no mask token, or options, rules and model do not fit; DataError "file:line" for a prompt that is too long.
  CommitDecoder(LanguageModel model, std::vector<FileProblem> problems, const std::string& file, const TokenCommitOptions& options);
  ~CommitDecoder();

  std::vector<EvaluatedPolicy> policies(bool learned) const { return commit_policies(options_, rules_, learned); }
  int64_t num_problems() const { return static_cast<int64_t>(problems_.size()); }

  struct Decoded {
    DiffusionCompletion completion;
    double correct = 0, ms = 0;
    int64_t premature = 0;    // commits of another token than one token a pass ends with
    bool truncated = false;   // the reply is shorter than with one token a pass
  };
  // Thread-safe: calls at the same time work on one thread each, with a copy of the weights each. `agents` are asked for by learned policies alone.
  Decoded decode(const std::string& policy, const AgentFactory& agents, int64_t problem, uint64_t seed) const;

 private:
  struct Worker;
  DiffusionOptions engine_of(const CommitPolicy& policy) const;
  Decoded run(Worker& worker, const CommitPolicy& policy, CommitControl& control, int64_t problem, uint64_t seed) const;
  Decoded by_policy(Worker& worker, const std::string& name, const AgentFactory& agents, int64_t problem, uint64_t seed) const;
  const DiffusionCompletion& careful(Worker& worker, int64_t problem, uint64_t seed) const;
  Decoded lock_in(Worker& worker, int64_t problem, uint64_t seed) const;

  TokenCommitOptions options_;
  LanguageModel model_;
  DiffusionModel facts_;
  CommitRuleOptions rules_;
  std::vector<FileProblem> problems_;
  std::vector<std::vector<int32_t>> prompts_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Worker>> idle_;
  mutable std::vector<std::unique_ptr<DiffusionCompletion>> careful_;   // by problem
};

}  // namespace trimtab
