// The ways servers choose a draft length for a whole batch: what a learned controller is compared with. Names of evaluation:
//
//   none, fixed_K      no drafts; K in every round
//   table              by batch size the fixed length of highest rate there, from the cost model and the texts: the tables that vLLM
//                      (num_speculative_tokens_per_batch_size) and TensorRT-LLM take
//   smartspec          the length of most expected tokens per time, the sum over the batch at each sequence's acceptance (SmartSpec, 2406.14066)
//   hf, diffuspec, sglang, ucb1   of ../rules.h, fed with means over the batch; ucb1 has a bandit for every power of two of the batch size
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "envs/draft_length/serving/draft_serving.h"

namespace trimtab {

class ServingRule {
 public:
  virtual ~ServingRule() = default;
  virtual int64_t length(const DraftServing::State& state) = 0;
  virtual void learn(const DraftServing::Round& round) { (void)round; }
};

std::vector<std::string> serving_rule_names(const DraftServing& env);
// `env` must live as long. ConfigError for an unknown name.
std::unique_ptr<ServingRule> make_serving_rule(const std::string& name, const DraftServing& env, uint64_t seed);

}  // namespace trimtab
