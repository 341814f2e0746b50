// One generate() call of a masked diffusion model: who is decoded, and the passes that several answers share.
#pragma once

#include <algorithm>
#include <list>
#include <vector>

#include "engine/diffusion/answer_pass.h"
#include "engine/diffusion/diffusion_generator.h"

namespace trimtab {

struct DiffusionInputs {
  std::span<const GenerationRequest> requests;
  const DiffusionModel& model;
  const DiffusionOptions& options;
  const DiffusionSampling& sampling;
  CommitControl& control;
  const CommitObserver& observer;
  int threads = 1;
};

inline int64_t length_of(const GenerationRequest& request, const DiffusionOptions& options) { return request.max_tokens > 0 ? request.max_tokens : options.length; }
inline int64_t longest_of(const GenerationRequest& request, const DiffusionOptions& options) {
  return options.adapt.adapt ? std::max(length_of(request, options), options.adapt.longest) : length_of(request, options);
}

class DiffusionPasses {
 public:
  DiffusionPasses(const DiffusionInputs& in, const PackedModel& model, Region& caches);
  ForwardLimits limits() const { return pass_.forward_limits(); }
  std::vector<DiffusionCompletion> run(Forward& forward, Team& team, DiffusionTimes& times);

 private:
  struct Open {
    DiffusionAnswer answer;
    int64_t slot = 0, request = 0, sample = 0;
  };

  int64_t slots() const { return std::min<int64_t>(in_.options.max_sequences, static_cast<int64_t>(completions_.size())); }
  int64_t most_rows() const;
  void admit();
  void close(Open& open, DiffusionTimes& times);

  DiffusionInputs in_;
  const TransformerConfig& config_;
  std::vector<DiffusionCompletion> completions_;
  AnswerPass pass_;
  std::list<Open> open_;              // places of a pass point to them
  std::vector<AnswerPass::Place> places_;
  std::vector<int64_t> free_slots_;
  int64_t next_ = 0;
};

}  // namespace trimtab
