// One call of MultiLoraGenerator: who is read and decoded when.
//
// A step admits waiting sequences while there is room, sends one batch through the model (a chunk of every prompt and continued sequence
// that is not read yet, the last token of every other), then draws a token of every sequence that has been read to its end.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/generation/ending.h"
#include "engine/multi_lora/lora_forward.h"
#include "engine/multi_lora/multi_lora_generator.h"

namespace trimtab {

class LoraSchedule {
 public:
  struct Inputs {
    std::span<const GenerationRequest> requests;
    std::span<const int32_t> adapters;   // of each request: its number in the table, or -1
    const SamplingOptions& sampling;
    const StopRules& stop;
    const GeneratorOptions& options;
  };
  LoraSchedule(const Inputs& in, const PackedModel& model, const CacheMemory& caches);
  int64_t most_prompt() const { return most_prompt_; }
  int64_t most_own() const { return most_own_; }
  std::vector<Completion> run(LoraForward& forward, Team& team);   // in the order of requests, and of samples within

 private:
  struct Prompt {   // of a request with open sequences
    int64_t slot = -1, open = 0, read = 0;
    CacheView cache;
    std::vector<float> hidden;   // [hidden_size] final state of its last token
  };
  struct Sequence {
    int64_t completion = 0, slot = -1, max_tokens = 0, read = 0;   // read: of its own tokens, in the cache
    CacheView cache;
    std::string tail;            // decoded bytes in which a stop string may still begin
    std::vector<float> hidden;   // final state of its last token
  };

  void list_completions();
  void admit_next();
  void add_rows();
  void add_prompt(int64_t request);
  void add_tokens(Sequence& s);
  bool ready(const Sequence& s) const;
  void add_draws();
  void take_draws();
  void close(Sequence& s);
  void leave_prompt(int64_t request);
  int64_t prompt_size(int64_t request) const { return static_cast<int64_t>(in_.requests[request].prompt.size()); }

  const Inputs in_;
  int64_t hidden_size_, most_prompt_ = 0, most_own_ = 0, prompt_numbers_ = 0, own_numbers_ = 0, prompt_capacity_ = 0, own_capacity_ = 0;
  float *prompt_memory_ = nullptr, *own_memory_ = nullptr;
  std::vector<Completion> completions_;
  std::vector<Prompt> prompts_;   // of each request
  std::vector<int64_t> free_prompt_slots_, free_slots_;
  std::vector<Sequence> open_;    // in the order they came
  Ending ending_;
  int64_t next_ = 0, made_ = 0;
  std::vector<LoraRow> rows_;
  std::vector<LoraDraw> draws_;
  std::vector<int64_t> drawn_;    // of open_, in the order of draws_
};

}  // namespace trimtab
