// One pass of the model for several answers, each with keys and values in a slot of its own.
#pragma once

#include <span>
#include <vector>

#include "engine/diffusion/answer.h"
#include "engine/generation/forward.h"
#include "engine/generation/packed_model.h"
#include "engine/generation/region.h"

namespace trimtab {

class AnswerPass {
 public:
  struct Place {
    DiffusionAnswer* answer = nullptr;
    int64_t slot = 0, sample = 0;
  };
  struct Limits {
    int64_t slots = 0, rows = 0;   // rows: of prompt and answer, at most
    int threads = 1;
  };
  AnswerPass(const DiffusionModel& facts, const DiffusionSampling& sampling, const PackedModel& model, const Limits& limits, Region& caches);
  AnswerPass(const AnswerPass&) = delete;   // the pass's callback points here

  ForwardLimits forward_limits() const { return {limits_.threads, limits_.rows, limits_.rows, 0, limits_.rows}; }
  // Every answer has looked at its proposals afterwards. The rows that were computed.
  int64_t run(std::span<const Place> places, Forward& forward, Team& team);

 private:
  struct Asked {   // by a row of the pass
    const Place* place = nullptr;
    int64_t position = -1;
  };
  void add_rows(const Place& place);
  void read(int64_t row, float* logits, int thread);

  DiffusionSampling sampling_;
  Limits limits_;
  int64_t capacity_ = 0, numbers_ = 0;
  float* caches_ = nullptr;
  std::vector<Proposer> proposers_;   // of each thread
  Pass pass_;
  std::vector<Asked> asked_;          // [rows of the pass]
};

}  // namespace trimtab
