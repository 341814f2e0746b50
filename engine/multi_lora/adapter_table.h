// The adapters of one call as kernels/lora reads them: of every layer and target a row of all adapters, so that a row of a batch names its
// adapter by one number.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/adapters/adapter_weights.h"
#include "policies/language/config.h"

namespace trimtab {

struct LoraExtent {
  int64_t in = 0, out = 0;
};
LoraExtent lora_extent(const TransformerConfig& config, LoraTarget target);   // of the linear layer: A [in, rank], B [rank, out]
const char* lora_target_name(LoraTarget target);                              // as checkpoints have it: q_proj

// DataError naming the adapter when it is for another number of layers, a matrix is missing, a rank is negative, a scale is not finite, or
// its bytes are fewer than matrices for this model take. Matrices of a larger model can't be told apart: pointers have no shapes.
void check_adapter(const AdapterWeights& adapter, const TransformerConfig& config);

class AdapterTable {
 public:
  AdapterTable() = default;
  // One entry for each of `adapters`, null: none; the same adapter twice is one. They must outlive the table.
  AdapterTable(std::span<const AdapterWeights* const> adapters, const TransformerConfig& config);

  int64_t count() const { return static_cast<int64_t>(known_.size()); }
  const std::string& name(int64_t adapter) const { return known_[adapter]->name; }
  int32_t index(const AdapterWeights* adapter) const;   // -1: null
  int64_t most_rank() const { return most_rank_; }
  std::span<const LoraAdapter> of(int64_t layer, LoraTarget target) const {
    return std::span(table_).subspan((layer * kLoraTargets + static_cast<int64_t>(target)) * count(), count());
  }
  bool changes(int64_t layer, LoraTarget target) const { return changes_[layer * kLoraTargets + static_cast<int64_t>(target)] != 0; }   // any of them

 private:
  std::vector<const AdapterWeights*> known_;
  std::vector<LoraAdapter> table_;   // [layers][kLoraTargets][count]
  std::vector<char> changes_;        // [layers][kLoraTargets]
  int64_t most_rank_ = 0;
};

}  // namespace trimtab
