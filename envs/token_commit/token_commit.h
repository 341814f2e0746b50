// Which proposals of a masked diffusion model become tokens, and when. An episode is an answer, a step a pass of the model. Agents, in their turns:
//
//   window    (decide_window)  where a window opens: how many positions it has, one of `windows`
//   commit    action: subset   of every masked position shown whether it is committed: what reaches `threshold`
//             action: order    the positions committed, at most `picks`, first to last (Plackett-Luce)
//   refresh   (decide_refresh) what the next pass computes anew: nothing, the window, everything
//
// What the commit agent leaves out entirely the environment decides: the position of the largest action, among equals the most confident, is
// committed, and the pass counts as forced. That commit is no part of the action, so no likelihood ratio has it.
//
// Reward at the end (Learning Unmasking Policies, arXiv 2512.09106), NFE passes of at most as many as the answer has positions:
//   reward: product   correct ((NFE_max - NFE) / NFE_max)^alpha
//   reward: sum       correct - pass_price NFE / NFE_max
// and in every pass stability x (proposals committed that are the careful answer's - those that are not) / length. Beyond `budget` passes an
// answer is cut off and worth nothing, as replies beyond their length are in DLER; with `least_budget` every answer has a budget of its own, which agents see.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "envs/environment.h"
#include "envs/token_commit/features.h"
#include "envs/token_commit/options.h"
#include "envs/token_commit/source.h"

namespace trimtab {

std::unique_ptr<BatchEnvironment> make_token_commit(const TokenCommitOptions& options, std::unique_ptr<CommitSource> source);

// The agents' specification; hidden_size: of the model, where options.projected > 0.
EnvSpec token_commit_spec(const TokenCommitOptions& options, const CommitView& view);
std::vector<int64_t> parse_windows(const std::string& text);   // "8,16,32"; ConfigError

// What the agents' actions say, as a control.
class CommitActions final : public CommitControl {
 public:
  explicit CommitActions(const TokenCommitOptions& options);
  void set_window(float action) { window_ = action; }
  // One number of each item, those of committed tokens behind the masks' (not read), or [picks]; must live until choose().
  void set_commit(std::span<const float> action) { commit_ = options_.action == "order" ? action : action.first(std::min<size_t>(action.size(), options_.items)); }
  void set_refresh(float action) { refresh_ = action; }

  CommitWindow open(const CommitState& state, CommitWindow proposed) override;
  void choose(const CommitState& state, std::vector<int32_t>& picks) override;
  CacheRefresh refresh(const CommitState& state) override;
  bool chose_nothing() const { return nothing_; }   // the last choose() had to choose for the agent

 private:
  void choose_subset(const CommitState& state, std::vector<int32_t>& picks) const;
  int32_t best(const CommitState& state) const;

  const TokenCommitOptions options_;
  std::vector<int64_t> windows_;
  float window_ = 0, refresh_ = 0;
  std::span<const float> commit_;
  bool nothing_ = false;
};

}  // namespace trimtab
