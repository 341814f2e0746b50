#include "envs/token_commit/comparison.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "domain/tasks/answers.h"
#include "domain/tasks/jsonl.h"

namespace trimtab {
namespace {

constexpr std::string_view kNoGuard = "+noguard", kLearned = "learned";
const std::set<std::string> kWithoutGuard = {kOneByOne, "threshold_90", "factor_100"};

}  // namespace

CommitPolicy commit_policy(const std::string& name, const TokenCommitOptions& options) {
  CommitPolicy p{name, options.eos_guard, options.threshold};
  if (name.ends_with(kNoGuard)) p.rule = name.substr(0, name.size() - kNoGuard.size()), p.guarded = false;
  if (!p.rule.starts_with(kLearned)) return p;
  if (p.rule.size() > kLearned.size()) p.threshold = std::stod(p.rule.substr(kLearned.size() + 1)) / 100;
  p.rule.clear();
  return p;
}

TokenCommitOptions options_of(const TokenCommitOptions& options, const CommitPolicy& policy) {
  TokenCommitOptions out = options;
  if (slides(policy.rule)) out.window = "sliding";
  if (policy.rule.starts_with("adablock")) out.window = "block";
  out.eos_guard = policy.guarded;
  if (policy.learned()) out.threshold = policy.threshold;
  return out;
}

std::vector<EvaluatedPolicy> commit_policies(const TokenCommitOptions& options, const CommitRuleOptions& rules, bool learned) {
  std::vector<std::string> names = options.rules.empty() ? commit_rule_names(rules) : options.rules;
  if (std::find(names.begin(), names.end(), kOneByOne) == names.end()) names.insert(names.begin(), kOneByOne);
  const std::set<std::string> asked(names.begin(), names.end());
  if (asked.size() < names.size()) throw ConfigError("rules names one twice: remove it");
  for (const std::string& name : asked) {
    if (name.ends_with(kNoGuard) || !options.eos_guard) continue;
    const std::string bare = name + std::string(kNoGuard);
    if ((options.both_guards || kWithoutGuard.contains(name)) && !asked.contains(bare)) names.push_back(bare);
  }
  std::vector<EvaluatedPolicy> out;
  if (learned) {
    out.push_back({std::string(kLearned), "learned"});
    for (const double t : options.thresholds) out.push_back({fmt::format("{}_{:g}", kLearned, 100 * t), "learned"});
    if (options.both_guards) out.push_back({fmt::format("{}{}", kLearned, kNoGuard), "learned"});
  }
  for (const std::string& name : names) {
    make_commit_rule(commit_policy(name, options).rule, rules);   // refuses what it does not know
    out.push_back({name, "baseline"});
  }
  out.push_back({kLockIn, "oracle"});
  return out;
}

std::vector<Evaluator::Frontier> commit_frontiers(const std::vector<EvaluatedPolicy>& policies) {
  std::vector<Evaluator::Frontier> out;
  for (const std::string family : {"learned", "threshold", "factor", "eb", "topk"}) {
    Evaluator::Frontier f{family, "passes", "correct", {}};
    for (const EvaluatedPolicy& p : policies)
      if (p.name.starts_with(family + "_") && !p.name.ends_with(kNoGuard)) f.policies.push_back(p.name);
    if (f.policies.size() > 1) out.push_back(std::move(f));
  }
  return out;
}

void LockIn::choose(const CommitState& s, std::vector<int32_t>& picks) {
  picks.clear();
  for (size_t i = 0; i < s.masked.size(); ++i) {
    const MaskedPosition& m = s.masked[i];
    const bool right = m.position < std::ssize(answer_) && m.token == answer_[m.position];   // the canvas may have grown beyond the answer
    if (s.pass < follow_ ? m.position == order_[s.pass] : right) picks.push_back(static_cast<int32_t>(i));
  }
}

double score_reply(const Problem& problem, std::string_view reply, const std::vector<std::string>& stop) {
  size_t end = reply.size();
  for (const std::string& text : stop) end = std::min(end, reply.find(text));
  reply = reply.substr(0, end);
  const size_t mark = reply.find('#');
  if (mark == std::string_view::npos || boxed_answer(reply) || hash_answer(reply)) return score_free_text(problem, reply);
  return answers_equal(reply.substr(mark + 1), problem.answer) ? 1.0 : 0.0;
}

}  // namespace trimtab
