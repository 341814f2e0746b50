// Who is decoded when: prompts are read once and shared by their samples, and a sequence that ends makes room for the next.
//
// One step admits waiting sequences, reads new prompts (and what continued sequences have already), draws the first token of those
// that have none, then draws one more of every open sequence. The order is fixed by the requests alone, so that a token budget ends
// at the same tokens whatever the number of threads.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/generation/ending.h"
#include "engine/generation/forward.h"
#include "engine/generation/generator.h"

namespace trimtab {

struct ScheduleInputs {
  std::span<const GenerationRequest> requests;
  const SamplingOptions& sampling;
  const StopRules& stop;
  const GeneratorOptions& options;
  const std::function<void(int64_t, int64_t)>& progress;
  int threads = 1;
};

class GenerationSchedule {
 public:
  GenerationSchedule(const ScheduleInputs& in, const PackedModel& model, Region& cache_memory);
  ForwardLimits limits() const;
  // Runs to the end; the completions in order.
  std::vector<Completion> run(Forward& forward, Team& team);

 private:
  struct Prompt {   // of a request with open sequences
    int64_t slot = -1;
    int64_t open = 0;                // sequences that are decoded now
    CacheView cache;
    std::vector<float> hidden;       // final hidden state of its last token: [hidden]
    bool read = false;
  };
  struct Sequence {
    int64_t completion = 0, slot = -1, max_tokens = 0;
    int64_t read = 0;                // of its own tokens: in the cache
    CacheView cache;
    std::string tail;                // decoded bytes in which a stop string may still begin
  };

  int64_t open_at_a_time() const;
  void admit();
  void admit_next();
  void read_prompts(Forward& forward, Team& team);
  void read_begun(Forward& forward, Team& team);
  void draw_first(Forward& forward, Team& team);
  void draw_next(Forward& forward, Team& team);
  PassRow sequence_row(const Sequence& s, int64_t index) const;
  void add_draw(PassRow& row, const Sequence& s);
  void take_draws(const std::vector<int64_t>& drawn);
  void close(Sequence& s);
  void leave_prompt(int64_t request);
  bool over_budget() const { return in_.options.token_budget > 0 && made_ >= in_.options.token_budget; }
  int64_t budget_left() const { return in_.options.token_budget > 0 ? in_.options.token_budget - made_ : INT64_MAX; }
  void report();

  ScheduleInputs in_;
  int64_t hidden_size_, prompt_capacity_ = 0, own_capacity_ = 0, most_prompt_ = 0, most_own_ = 0;
  std::vector<Completion> completions_;
  std::vector<Prompt> prompts_;        // of each request
  std::vector<int64_t> free_prompt_slots_, free_slots_;
  float *prompt_memory_ = nullptr, *own_memory_ = nullptr;
  int64_t prompt_numbers_ = 0, own_numbers_ = 0;   // of one slot
  std::vector<Sequence> open_;         // in the order they came
  Ending ending_;
  int64_t next_ = 0, made_ = 0, finished_ = 0, reported_ = 0;
  Pass pass_;
};

}  // namespace trimtab
