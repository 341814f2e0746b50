#include "envs/token_commit/agent_commit.h"

#include "core/error.h"

namespace trimtab {

AgentCommit::AgentCommit(const TokenCommitOptions& options, int64_t hidden_size, std::map<std::string, std::unique_ptr<AgentFunction>> agents)
    : options_(options), view_(commit_view_options(options, hidden_size)),
      agents_(std::move(agents)), actions_(options), context_(view_.spec().context_size()), items_(view_.spec().max_items * view_.spec().item_size()), mask_(view_.spec().max_items) {
  for (const AgentSpec& a : token_commit_spec(options, view_).agents) {
    if (a.name == "commit") width_ = static_cast<size_t>(a.head.width());
    if (!agents_.contains(a.name)) throw ConfigError(fmt::format("the policy has no agent '{}': evaluate with the env block that it was trained with", a.name));
  }
}

const float* AgentCommit::ask(const std::string& agent, const CommitState& s, size_t width) {
  CommitState budgeted = s;
  budgeted.budget = options_.budget;
  view_.show(budgeted, {context_.data(), items_.data(), mask_.data()});
  action_.assign(width, 0.0f);
  agents_.at(agent)->decide(context_.data(), items_.data(), mask_.data(), view_.spec().max_items, action_.data());
  return action_.data();
}

CommitWindow AgentCommit::open(const CommitState& s, CommitWindow proposed) {
  if (options_.decide_window) actions_.set_window(*ask("window", s, 1));
  return actions_.open(s, proposed);
}

void AgentCommit::choose(const CommitState& s, std::vector<int32_t>& picks) {
  actions_.set_commit({ask("commit", s, width_), width_});
  actions_.choose(s, picks);
  forced_ += actions_.chose_nothing();
}

CacheRefresh AgentCommit::refresh(const CommitState& s) {
  if (options_.decide_refresh) actions_.set_refresh(*ask("refresh", s, 1));
  return actions_.refresh(s);
}

}  // namespace trimtab
