// What a row of logits proposes for a masked position, and how sure it is.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/diffusion/diffusion_generator.h"
#include "engine/generation/token_draw.h"

namespace trimtab {

struct Proposal {
  int32_t token = -1;       // -1: none yet
  float confidence = 0, margin = 0, entropy = 0, drift = 0;   // as in MaskedPosition, under softmax(logits) without the mask token
  int32_t likeliest = -1;
  int32_t held = 0;
  bool finite = true;
};

// Of one thread: scratch.
class Proposer {
 public:
  Proposer(int64_t vocab, int64_t mask_id, double temperature);
  // `logits` [TokenDraw::padded(vocab)], the mask's is overwritten: it is never proposed. `before` [vocab]: ln p of the proposal that `p`
  // holds, becomes that of this one; empty where it is not asked for.
  void propose(float* logits, const std::array<uint32_t, 4>& words, std::span<float> before, Proposal& p);

 private:
  int64_t vocab_, mask_id_;
  bool greedy_;
  TokenDraw draw_;
  std::vector<float> e_, block_sums_;
};

}  // namespace trimtab
