// One answer on its way from masks to tokens: its canvas, windows, what was proposed, and what its control makes of it.
#pragma once

#include <span>
#include <vector>

#include "engine/diffusion/diffusion_generator.h"
#include "engine/diffusion/proposer.h"
#include "engine/diffusion/row_cache.h"

namespace trimtab {

class DiffusionAnswer {
 public:
  struct Inputs {
    const DiffusionModel& model;
    const DiffusionOptions& options;
    std::span<const int32_t> prompt;
    uint64_t key = 0;        // of the request
    int64_t number = 0;      // of the completion
    int64_t length = 0;
    int64_t vocab = 0, hidden_size = 0;
  };
  explicit DiffusionAnswer(const Inputs& in);

  // ---- a pass: plan, compute rows(), propose for those that position_of() names, look; then open and decide ----
  void plan();
  const std::vector<int32_t>& rows() const { return rows_; }   // of prompt and answer, rising
  int32_t token(int64_t row) const { return canvas_[row]; }
  int64_t visible(int64_t row) const { return cache_.visible(row, static_cast<int64_t>(canvas_.size())); }
  int64_t position_of(int64_t row) const;   // for which the row proposes in this pass; -1: for none
  float* hidden_of(int64_t row);            // where its final hidden state goes, may be null
  void propose(int64_t position, float* logits, Proposer& proposer, const DiffusionSampling& sampling, int64_t sample);   // thread-safe
  void look();                            // at what was proposed; RunError when logits are not finite
  bool opens() const { return opens_; }   // a window, in this pass: the control is to be asked for one
  void open(CommitControl& control);      // nothing where none opens
  CommitState state() const;              // after look(): of all that was proposed where a window is to be opened, else of the window
  void decide(CommitControl& control, const CommitObserver& observer);
  bool over() const { return over_; }

  int64_t number() const { return in_.number; }
  DiffusionCompletion completion() const;   // but for request and sample

 private:
  int64_t prompt() const { return static_cast<int64_t>(in_.prompt.size()); }
  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  bool windows_slide() const { return in_.options.window == "sliding"; }
  bool adapts() const { return in_.options.adapt.adapt && out_.passes < in_.options.adapt.passes; }
  bool ends(int32_t token) const;
  int64_t first_mask() const { return first_mask_; }
  CanvasPass canvas_pass() const { return {canvas_, window_, proposed_end_, opens_ && !windows_slide()}; }
  CommitWindow next_window() const;

  void resize(int64_t length);
  void gather();
  void narrow();
  void commit(const MaskedPosition& m);
  void adapt_length();
  int64_t adapted_length() const;
  void finish_pass();

  Inputs in_;
  RowCache cache_;
  std::vector<int32_t> canvas_;   // prompt and answer, the mask's id where masked
  std::vector<int32_t> tokens_;   // the answer, -1 where masked
  std::vector<Proposal> proposals_;
  std::vector<float> logp_;       // [length][vocab], where divergences are measured
  std::vector<float> hidden_;     // [1 + length][hidden_size] of the rows from prompt - 1 on, where asked for
  std::vector<int32_t> rows_;
  std::vector<MaskedPosition> masked_;   // that this pass proposed for, by rising position
  std::vector<int32_t> picks_;
  CommitWindow window_;
  int64_t window_masks_ = 0, window_pass_ = 0, proposed_end_ = 0, first_mask_ = 0, first_ending_ = -1;
  size_t in_window_ = 0;          // of masked_
  bool opens_ = false, over_ = false;
  CacheRefresh wish_ = CacheRefresh::kAsPlanned;
  DiffusionCompletion out_;
};

}  // namespace trimtab
