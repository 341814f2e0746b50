// The environment `reasoning`: problems with exact verifiers, from a procedural suite (domain/tasks/suite.h) or from JSONL files
// (domain/tasks/jsonl.h), scored by their own verifier or by a user's program (domain/tasks/command_reward.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "domain/tasks/command_reward.h"
#include "domain/tasks/jsonl.h"
#include "envs/text_environment.h"

namespace trimtab {

struct ReasoningOptions {
  std::string chat = "none", instruction;
  std::vector<std::string> stop;
  std::vector<double> effort;     // shares of the usual length
  std::vector<int64_t> budgets;   // tokens
  void describe(Fields& f);
};

class Reasoning final : public TextEnvironment {
 public:
  // Keys of `config`: those of ReasoningOptions, `suite` (then no files are read) and `reward`.
  Reasoning(const Config& config, const TextEnvironmentData& data);

  int64_t size(Split split) const override;
  Problem problem(Split split, uint64_t seed, uint64_t index) const override;
  std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const Problem& problem) const override;
  std::vector<int32_t> stop_ids(const Tokenizer& tokenizer) const override;
  std::vector<std::string> stop_strings() const override { return options_.stop; }
  std::vector<Verdict> score(std::span<const Problem> problems, std::span<const std::string> replies) override;
  TokenExample example(const Tokenizer& tokenizer, Stage stage, TextKey key) const override;
  std::string alphabet() const override;
  std::vector<Problem> read_problems(const std::string& file, bool allow_validation) const override;

 private:
  void read_files(const TextEnvironmentData& data);
  const std::vector<FileProblem>& problems_of(Split split) const;
  Problem with_demands(Problem problem, Split split, uint64_t seed, uint64_t index) const;
  Verdict own_verdict(const Problem& problem, const std::string& reply) const;

  ReasoningOptions options_;
  std::unique_ptr<Suite> suite_;
  std::unique_ptr<CommandReward> command_;
  std::vector<FileProblem> train_, validation_;
};

}  // namespace trimtab
