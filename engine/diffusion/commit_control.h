// Who decides which proposals of a masked diffusion model become tokens. A forward pass proposes a token for every masked position of the
// answer; a control commits some of them, the rest are proposed anew by the next pass. Committed tokens are never taken back.
//
// The same interface is asked live by the generator (diffusion_generator.h) and by environments on recorded passes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trimtab {

// What the last pass says of a position that is still masked. Positions count from 0 at the answer's first token.
struct MaskedPosition {
  int32_t position = 0;
  int32_t token = 0;          // proposed
  float confidence = 0;       // its probability
  float margin = 0;           // by which it is likelier than the next
  float entropy = 0;          // of the distribution, nats
  float drift = 0;            // KL to the distribution of the pass before, nats; 0 when there was none
  int32_t held = 0;           // passes for which the likeliest token has been this one, this pass not counted
  bool ends = false;          // the proposal ends the answer (EOS or padding)
  bool waits = false;         // the guard takes it only together with all masks left of it: by rank it goes last, and uses up no place
  std::span<const float> hidden = {};   // the model's final hidden state; empty: not asked for
};

// Positions begin .. end - 1 of the answer are decided now; masked positions beyond wait.
struct CommitWindow {
  int64_t begin = 0, end = 0;
};

struct CommitState {
  int64_t sequence = 0;       // number of the completion
  int64_t length = 0;         // of the answer, tokens
  int64_t pass = 0;           // passes that this answer has had, this one not counted
  CommitWindow window;
  int64_t window_masks = 0;   // masked positions in the window when it was opened
  int64_t window_pass = 0;    // passes since, this one not counted
  int64_t window_passes = 0;  // that the schedule plans for a window; 0: no plan
  int64_t budget = 0;         // passes that the answer may take; 0: any number
  std::span<const int32_t> tokens = {};          // [length], -1 where masked
  bool ended = false;         // an ending is committed
  std::span<const MaskedPosition> masked = {};   // of the window, by rising position; never empty
  std::span<const MaskedPosition> beyond = {};   // of what the pass computed right of the window, by rising position
};

enum class CacheRefresh { kAsPlanned, kNothing, kWindow, kEverything };   // what the next pass computes anew

class CommitControl {
 public:
  virtual ~CommitControl() = default;
  // Indices into state.masked of what is committed, in any order and without repeats. None: the generator commits the most confident
  // one and counts it as forced.
  virtual void choose(const CommitState& state, std::vector<int32_t>& picks) = 0;
  // The window that opens, given the one that the generator's options say. Asked in a window's first pass before choose(), which then decides
  // in it; where windows slide, in every pass. `masked` of the state are all positions that the pass proposed for, `beyond` is empty, window
  // is the proposal. A window begins at the answer's first mask or left of it: other answers are moved there.
  virtual CommitWindow open(const CommitState& state, CommitWindow proposed) { return (void)state, proposed; }
  // Asked after the pass's commits, by generators that keep keys and values; `tokens` of the state hold them, the rest is as it was.
  virtual CacheRefresh refresh(const CommitState& state) { return (void)state, CacheRefresh::kAsPlanned; }
  virtual void begin(int64_t sequence) { (void)sequence; }   // a new answer
};

}  // namespace trimtab
