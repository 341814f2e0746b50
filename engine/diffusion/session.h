// Answers decoded pass by pass, for who decides between the passes itself: an environment. The arithmetic is the generator's: the same
// decisions give the same answers, bit for bit, whatever the company.
//
//   begin(slot, ...); while (!answer(slot).over()) { pass({slot}); answer(slot).open(control); answer(slot).decide(control, {}); }
#pragma once

#include <memory>
#include <span>

#include "engine/diffusion/answer.h"
#include "engine/diffusion/diffusion_generator.h"

namespace trimtab {

struct DiffusionPrompt {
  std::span<const int32_t> tokens;   // must outlive the answer
  uint64_t key = 0;                  // of its draws
  int64_t number = 0;                // CommitState::sequence
  int64_t length = 0;                // of the canvas; 0: options.length
};

class DiffusionSession {
 public:
  // Packs the model's weights once: later changes of them are not seen. ConfigError as of DiffusionGenerator.
  DiffusionSession(const Transformer& model, DiffusionModel facts, DiffusionOptions options, const DiffusionSampling& sampling, int64_t slots, int64_t longest_prompt,
                   Pool& pool);
  ~DiffusionSession();

  int64_t slots() const;
  void begin(int64_t slot, const DiffusionPrompt& prompt);   // DataError for prompts that the generator refuses
  DiffusionAnswer& answer(int64_t slot);                     // that was begun
  void pass(std::span<const int64_t> slots);                 // for answers that are not over; they have looked at their proposals afterwards

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
