// Speculative decoding (Leviathan et al., arXiv 2211.17192; Chen et al., 2302.01318; trees: SpecInfer, 2305.09781): a drafter proposes
// tokens, one pass of the target verifies them all, and what comes out has exactly the target's distribution
// (kernels/speculative_verify). Greedy decoding gives the tokens that Generator gives, bit for bit with chains; with trees sums have
// another order, so a tie within rounding may fall the other way.
//
// Several sequences are decoded at once, each with its own drafts and lengths. Draws are keyed by (seed, request key, sample, the round's
// first position, position), so a sequence does not depend on its company.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/drafters/drafter.h"
#include "engine/generation/generator.h"
#include "engine/speculative/draft_control.h"

namespace trimtab {

struct SpeculativeOptions {
  int64_t max_sequences = 16;   // decoded at the same time
  int64_t most_drafted = 16;    // tokens in a round, at most
  int64_t tree_nodes = 0;       // of drafters that make trees; 0: chains
  void describe(Fields& f);
};

struct SpeculativeRound {
  int32_t drafted = 0, accepted = 0;
};
struct SpeculativeCompletion {
  Completion completion;                  // as Generator gives it
  std::vector<SpeculativeRound> rounds;   // each committed `accepted` tokens and one more; what lay behind the end is cut off
};
struct SpeculativeTimes {
  double draft_s = 0, verify_s = 0, total_s = 0;
  int64_t draft_passes = 0, target_passes = 0, drafted = 0, accepted = 0, tokens = 0;
};

class SpeculativeDecoder {
 public:
  // Drafts come from another model, from the target's own first layers, or from a drafter without weights. ConfigError when vocabularies
  // differ: a draft's token must mean the same to the target. The models must outlive the decoder.
  SpeculativeDecoder(const Transformer& target, const Transformer& draft, SpeculativeOptions options = {});
  SpeculativeDecoder(const Transformer& target, int64_t draft_layers, SpeculativeOptions options = {});
  SpeculativeDecoder(const Transformer& target, std::unique_ptr<Drafter> drafter, SpeculativeOptions options = {});
  ~SpeculativeDecoder();

  // Completions in the order of requests, and of samples within. Errors as Generator's; ConfigError also when prompt, answer and drafts
  // exceed the positions of either model. `control` is asked from one thread. begun sequences are not taken.
  std::vector<SpeculativeCompletion> generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling, const StopRules& stop,
                                              uint64_t seed, DraftControl& control, Pool& pool);
  const SpeculativeTimes& times() const;   // of the last call

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
