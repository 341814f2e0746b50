// One generate() call of a masked diffusion model: who is decoded, and the passes that several answers share.
#pragma once

#include <list>
#include <vector>

#include "engine/diffusion/answer.h"
#include "engine/diffusion/diffusion_generator.h"
#include "engine/generation/forward.h"
#include "engine/generation/packed_model.h"
#include "engine/generation/region.h"

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
  ForwardLimits limits() const;
  std::vector<DiffusionCompletion> run(Forward& forward, Team& team, DiffusionTimes& times);

 private:
  struct Open {
    DiffusionAnswer answer;
    int64_t slot = 0, request = 0, sample = 0;
  };
  struct Asked {   // by a row of the pass
    Open* open = nullptr;
    int64_t position = -1;
  };

  void admit();
  void add_rows(Open& open);
  void read(int64_t row, float* logits, int thread);
  void close(Open& open, DiffusionTimes& times);

  DiffusionInputs in_;
  const TransformerConfig& config_;
  int64_t most_rows_ = 0, capacity_ = 0, numbers_ = 0;
  float* caches_ = nullptr;
  std::vector<Proposer> proposers_;   // of each thread
  std::vector<DiffusionCompletion> completions_;
  std::list<Open> open_;              // rows of a pass point to them
  std::vector<int64_t> free_slots_;
  int64_t next_ = 0;
  Pass pass_;
  std::vector<Asked> asked_;          // [rows of the pass]
};

}  // namespace trimtab
