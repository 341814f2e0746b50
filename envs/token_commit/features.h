// What a learned policy of token commitment sees of a pass: the answer as context, and as items the masked positions that may be committed now.
//
// Distances are logarithms and counts are shares, so that one controller serves any length, window and budget.
#pragma once

#include <cstdint>
#include <vector>

#include "core/spec.h"
#include "engine/diffusion/commit_control.h"
#include "envs/environment.h"

namespace trimtab {

struct CommitViewOptions {
  int64_t items = 32;         // masked positions shown: the first so many of the window
  int64_t projected = 0;      // numbers of the hidden state shown for each; 0: none
  int64_t hidden_size = 0;    // of the model; needed where projected > 0
  int64_t codes = 0;          // numbers that stand for each proposed token; 0: none
  int64_t places = 0;         // pairs of sine and cosine of each position in the answer; 0: none
  int64_t committed = 0;      // committed tokens shown behind the masks, the nearest to them: seen, not chosen from; 0: none
  bool budgets = false;       // answers have budgets of their own (CommitState::budget): how many passes are left is shown
};

// Context: share_masked, window_masked, window_begin, log_masked, pass, budget_left, ended, best_confidence, and log_left where budgets are shown.
// Item: confidence, sureness, margin, entropy, log_drift, held, from_first_mask, from_left, from_right, ends, then hidden0 ..., code0 ..., sine0, cosine0, ..., and
// settled where committed tokens are shown: 1 for them, whose confidence is 1.
//
// budget_left is the share left of the passes that the schedule plans for the window, 1 without a plan; log_left counts what is left of the answer's budget.
//
// Codes and places let a controller see whether the proposals of one pass agree with each other, which no confidence says: each was made without the others.
class CommitView {
 public:
  explicit CommitView(const CommitViewOptions& options);   // ConfigError when hidden states are asked of a model whose size is not given

  const ObservationSpec& spec() const { return spec_; }
  int64_t shown(const CommitState& state) const;           // how many of state.masked are items: item i is state.masked[i]
  // One decision; absent items are zero with mask 0.
  void show(const CommitState& state, ObservationRows out) const;

 private:
  void show_item(const CommitState& state, const MaskedPosition& m, int64_t left, int64_t right, float* out) const;
  void show_hidden(const MaskedPosition& m, float* out) const;
  void show_code(int32_t token, float* out) const;
  void show_place(int64_t position, float* out) const;
  void show_committed(const CommitState& state, int64_t masks, ObservationRows out) const;

  CommitViewOptions options_;
  ObservationSpec spec_;
  std::vector<float> projection_;   // [hidden_size][projected], entries N(0, 1 / hidden_size) of a fixed seed (Johnson-Lindenstrauss)
};

}  // namespace trimtab
