// How many nodes of a token tree to have verified, when drafts come from a drafter without weights (engine/drafters): the agent chooses a
// budget at the start of every round. Trees are cheap to make; what they cost is the target's time for their nodes, so the best budget
// depends on the batch, and on how sure the drafter is.
//
// Reward: tokens - lambda time, with lambda the rate lately for this batch size (as draft_length). Recorded texts replay exactly (tree_table.h).
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "engine/drafters/drafter.h"
#include "envs/draft_length/draft_length.h"
#include "envs/draft_length/trees/tree_table.h"

namespace trimtab {

// Made-up texts that repeat phrases, for trying things out.
struct SyntheticTexts {
  int64_t texts = 64, length = 128, phrases = 12;
  double copied = 0.6;   // probability that a phrase comes next, else one token of 24
  void describe(Fields& f);
};

struct DraftTreeOptions {
  std::string mode = "replay", budgets = "0,1,2,4,8,16,32";
  int64_t low_batch = 1, high_batch = 64;
  DraftCost cost;
  DrafterOptions drafter;
  SyntheticTexts synthetic;
  DraftTreeOptions();
  void describe(Fields& f);
  void validate() const;
};
DraftTreeOptions draft_tree_options(const Config& config);   // of the env block

class DraftTreeBudget {
 public:
  struct State {
    WorldKey key;
    int64_t text = 0, position = 0, batch = 1, last_nodes = 0, last_accepted = -1;
    float average = 0;   // accepted tokens a round, lately
    int32_t action = 0;
    RunningRates rates;   // kept from episode to episode
    double episode_tokens = 0, episode_ms = 0;
  };
  struct Round {
    int64_t nodes = 0, accepted = 0, tokens = 0;
    double ms = 0;
    bool over = false;
  };
  DraftTreeBudget(const DraftTreeOptions& options, std::vector<TokenText> texts);

  const EnvSpec& spec() const { return spec_; }
  void reset(State& s, WorldKey key) const;
  void begin(State& s, WorldKey key, int64_t text, int64_t batch) const;
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const { observe(s, 0, out); }
  void act(State& s, int, const float* action) const { s.action = static_cast<int32_t>(action[0]); }
  StepOutcome step(State& s, float* terms) const;
  int label(const State& s, int agent) const;   // the budget of most gain, for who knows the text
  template <class Add>
  void episode_statistics(const State& s, const Add& add) const {
    add("tokens_per_ms", s.episode_tokens / s.episode_ms);
  }

  const DraftTreeOptions& options() const { return options_; }
  const TreeTable& table() const { return table_; }
  const std::vector<int64_t>& budgets() const { return budgets_; }
  Round round(State& s, int budget) const;   // index of a budget
  double round_ms(int64_t nodes, int64_t batch) const;
  double reference_rate(int64_t batch) const;   // tokens per ms of the best fixed budget here
  int best_fixed(int64_t batch) const;          // index
  // Index of the budget of most gain at a rate, by the drafter's own estimates or by what the target will accept.
  int best_budget(const State& s, double rate, bool known) const;

 private:
  double rate(const State& s) const;

  DraftTreeOptions options_;
  std::vector<int64_t> budgets_;
  TreeTable table_;
  std::array<double, kBatchSizes> reference_ = {};
  std::array<int, kBatchSizes> best_ = {};
  EnvSpec spec_;
};

}  // namespace trimtab
