// A model that is run step by step on the texts of several sequences at once, with its own keys and values of each: what drafts tokens,
// and what verifies them. A text's tokens are read in any number of steps; what is read again, or otherwise, replaces what was there, so
// taking tokens back costs nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/generation/forward.h"
#include "engine/generation/packed_model.h"
#include "engine/generation/region.h"

namespace trimtab {

struct RunnerLimits {
  int64_t sequences = 1;          // slots
  int64_t prompt = 0, own = 0;    // longest prompt, and most tokens behind it
  int64_t branches = 0, depth = 0;   // of a token tree beside the text; 0: chains alone
  int threads = 1;
};

class ModelRunner {
 public:
  // The first `layers` of the model; 0: all. The weights are packed here, once.
  ModelRunner(const Transformer& model, int64_t layers, const RunnerLimits& limits, Pool& pool);

  const TransformerConfig& config() const { return packed_.config(); }
  int64_t logits_size() const { return logits_size_; }   // numbers of one row of logits

  // ---- one step: clear, add rows, run ----
  void clear() { pass_.clear(), text_in_step_ = false; }
  bool empty() const { return pass_.rows.empty(); }
  // Token `index` of the text in `slot`, whose prompt has `prompt` tokens. Tokens of one text follow one another; those before them are
  // read already or were added right before. `logits`, of the token after it, may be null.
  struct Row {
    int64_t slot = 0, prompt = 0, index = 0;
    int32_t token = 0;
    float* logits = nullptr;
    float* hidden = nullptr;   // [hidden]: the final hidden state; may be null
  };
  void add(const Row& row);
  // Token number `depth` (from 0) of a branch that leaves the text behind its token text - 1, added right after the text's rows or the
  // branch's token before it. Branches live for one step.
  void add_branch(const Row& row, int64_t text, int64_t branch, int64_t depth);
  void run(Team& team) { forward_->run(pass_, team); }

 private:
  // Where trees grow, all of a text is one piece: a branch's own keys are the other. Else prompt and answer are the two, as Generator
  // has them, and sums have its order.
  bool trees() const { return limits_.branches > 0; }
  void join(PassRow row, int64_t slot, int64_t branch);

  RunnerLimits limits_;
  Region weights_, buffers_, caches_;
  PackedModel packed_;
  int64_t logits_size_ = 0, shared_capacity_ = 0, own_capacity_ = 0, slot_numbers_ = 0, shared_numbers_ = 0, own_numbers_ = 0;
  std::unique_ptr<Forward> forward_;
  Pass pass_;
  int64_t last_slot_ = -1, last_branch_ = -1;
  bool text_in_step_ = false;
};

}  // namespace trimtab
