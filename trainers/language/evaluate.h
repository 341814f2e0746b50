// Evaluation of a language model on problems with verifiable answers: sampled and greedy. A masked diffusion model's answers are
// `sampling.max_tokens` masked tokens that it fills in (diffusion_decode.h); top_k and top_p are not for them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/pool.h"
#include "core/ranks.h"
#include "engine/generation/generator.h"
#include "envs/text_environment.h"
#include "policies/language/pretrained.h"

namespace trimtab {

class AdapterMixture;

struct LanguageEvaluationRequest {
  std::span<const Problem> problems;
  int64_t samples = 1;        // per problem
  SamplingOptions sampling;   // temperature 0: greedy, one sample is enough
  uint64_t seed = 1;
  std::function<void(int64_t tokens, int64_t finished)> progress;   // of this rank
  Ranks* ranks = &one_process();   // share the problems; every rank gets all replies
  const AdapterMixture* mixture = nullptr;   // answers instead of the model alone, which is its base: one greedy sample
};

// All per reply, [problems, samples] row by row.
struct LanguageEvaluation {
  int64_t samples = 1;
  std::vector<double> outcome;      // the verifier's
  std::vector<uint8_t> solved;      // outcome >= 1
  std::vector<uint8_t> well_formed; // the verifier found an answer in the form asked for
  std::vector<uint8_t> truncated;   // the token limit ended it
  std::vector<int64_t> tokens;      // stop token included
  std::vector<std::string> text;
  double seconds = 0;               // of generation

  double mean_outcome() const;
  double accuracy() const;          // share of replies solved
  double mean_tokens() const;
  double truncated_share() const;
};

LanguageEvaluation evaluate_language(const LanguageModel& model, TextEnvironment& environment, const LanguageEvaluationRequest& request,
                                     Pool& pool);

// The unbiased estimate of the chance that one of k replies is right, when `correct` of n are (Chen et al., arXiv 2107.03374, eq. 1):
// 1 - C(n - correct, k) / C(n, k). k <= n.
double pass_at_k(int64_t n, int64_t correct, int64_t k);

}  // namespace trimtab
