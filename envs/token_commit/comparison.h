// What is compared: rules of rules.h, with and without the guard against early endings, and what replies are worth.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "domain/tasks/suite.h"
#include "engine/diffusion/commit_control.h"
#include "envs/evaluation.h"
#include "envs/token_commit/options.h"
#include "envs/token_commit/rules.h"

namespace trimtab {

inline constexpr const char* kLockIn = "lock_in";   // the oracle
inline constexpr const char* kOneByOne = "top1";    // the reference

struct CommitPolicy {
  std::string rule;          // empty: the learned controller's
  bool guarded = true;
  double threshold = 0.5;    // of the learned controller
  bool learned() const { return rule.empty(); }
  bool operator==(const CommitPolicy&) const = default;
};
CommitPolicy commit_policy(const std::string& name, const TokenCommitOptions& options);   // "top1+noguard", "learned_90"
TokenCommitOptions options_of(const TokenCommitOptions& options, const CommitPolicy& policy);   // as it decodes: its windows, guard and threshold

// top1 among them, lock_in last. ConfigError for unknown rules, and for one named twice.
std::vector<EvaluatedPolicy> commit_policies(const TokenCommitOptions& options, const CommitRuleOptions& rules, bool learned = false);
// Accuracy over passes of the families that have a number to turn.
std::vector<Evaluator::Frontier> commit_frontiers(const std::vector<EvaluatedPolicy>& policies);

// The floor of passes to an answer that is known: every proposal is committed that equals the answer's token. No rule could know. Committing
// changes what is proposed next, so a pass may propose nothing of the answer; the generator then forces a commit, and the answer may be another.
// In its first `follow` passes the oracle therefore commits the positions `order`, those of a run that is known to end in this answer.
class LockIn final : public CommitControl {
 public:
  LockIn(std::vector<int32_t> answer, std::vector<int32_t> order, int64_t follow) : answer_(std::move(answer)), order_(std::move(order)), follow_(follow) {}
  void choose(const CommitState& state, std::vector<int32_t>& picks) override;

 private:
  std::vector<int32_t> answer_, order_;
  int64_t follow_;
};

// 1 when the final answer of a reply is the problem's: \boxed{...} or #### as in answers.h; else all behind the first '#', as suites end their
// replies; else the last number. The reply counts up to the first of `stop`.
double score_reply(const Problem& problem, std::string_view reply, const std::vector<std::string>& stop);

}  // namespace trimtab
