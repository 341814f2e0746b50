// Jacobi decoding of causal models (Santilli et al., arXiv 2305.10427): the next tokens are guessed, one pass of the model says what each
// guess should have been, and the answers are the next guesses. A guess is settled once everything left of it is, so every pass settles one
// token or more, and what comes out is greedy decoding's, bit for bit.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/options.h"
#include "core/pool.h"
#include "engine/generation/generator.h"

namespace trimtab {

struct JacobiOptions {
  int64_t max_sequences = 16;   // decoded at the same time
  int64_t window = 8;           // guesses at a time
  void describe(Fields& f);
  void validate() const {}
};

struct JacobiCompletion {
  Completion completion;   // as Generator gives it, greedy
  int64_t passes = 0;      // that settled its tokens; passes that only read the prompt are not counted
};

class JacobiDecoder {
 public:
  JacobiDecoder(const Transformer& model, JacobiOptions options = {});   // the model must outlive the decoder
  // Completions in the order of requests, and of samples within. Errors as Generator's; begun sequences are not taken.
  std::vector<JacobiCompletion> generate(std::span<const GenerationRequest> requests, int64_t max_tokens, const StopRules& stop, Pool& pool);

 private:
  const Transformer& model_;
  JacobiOptions options_;
};

}  // namespace trimtab
