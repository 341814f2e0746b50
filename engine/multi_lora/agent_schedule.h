// One call of SharedAgents::generate: which sequences are decoded when. Every step adds one token to each open sequence.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/generation/ending.h"
#include "engine/multi_lora/shared_forward.h"

namespace trimtab {

class AgentSchedule {
 public:
  struct Inputs {
    std::span<const int32_t> text;               // of it all but the last token are in the shared cache
    std::span<const GenerationRequest> requests;   // their prompts are not looked at
    std::span<const int32_t> adapters;           // of each request: its number in the table, or -1
    const SamplingOptions& sampling;
    const StopRules& stop;
    const GeneratorOptions& options;
  };
  AgentSchedule(const Inputs& in, const PackedModel& model, Region& caches);
  int64_t most_own() const { return most_own_; }
  std::vector<Completion> run(LoraForward& forward, Team& team);

 private:
  struct Sequence {
    int64_t completion = 0, slot = -1, max_tokens = 0;
    std::string tail;            // decoded bytes in which a stop string may still begin
    std::vector<float> hidden;   // [hidden_size] final state of its last token
  };
  void admit();
  void add_row(Sequence& s);
  void take(Sequence& s, const DrawnToken& drawn);

  const Inputs in_;
  int64_t hidden_size_, most_own_ = 0, own_numbers_ = 0, own_capacity_ = 0;
  float* memory_ = nullptr;
  std::vector<Completion> completions_;
  std::vector<int64_t> free_slots_;
  std::vector<Sequence> open_;
  Ending ending_;
  int64_t next_ = 0, made_ = 0;
  std::vector<LoraRow> rows_;
  std::vector<LoraDraw> draws_;
};

}  // namespace trimtab
