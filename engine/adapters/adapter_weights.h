// A LoRA adapter in the layout that kernels/lora reads: for every linear layer of the base model one A [in, rank] and one B [rank, out].
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/lora/lora.h"

namespace trimtab {

// The linear layers of a decoder block that can be served; lm_head and embeddings can't.
enum class LoraTarget : int32_t { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };
constexpr int kLoraTargets = 7;

struct AdapterWeights {
  std::string name;
  int64_t rank = 0, bytes = 0;
  std::vector<LoraAdapter> matrices;   // [layers][kLoraTargets]; rank 0 where the adapter changes nothing. They point into memory of the owner
  const LoraAdapter& at(int64_t layer, LoraTarget target) const { return matrices[layer * kLoraTargets + static_cast<int>(target)]; }
};

}  // namespace trimtab
