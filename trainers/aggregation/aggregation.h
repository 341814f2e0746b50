// Seam 5, aggregation: how rows become one number. A loss is sum_i weight_i L_i with weights from the GLOBAL
// batch, so that cutting it into micro-batches, shards or ranks changes nothing but rounding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trimtab {

enum class Aggregation {
  kTokenMean,     // every row alike: 1 / rows
  kSequenceMean,  // every episode alike: 1 / (episodes x rows of the episode)
  kConstant,      // 1 / (episodes x constant): no length bias (Dr. GRPO, arXiv 2503.20783)
  kPromptMean,    // every group alike, rows alike inside a group: 1 / (groups x rows of the group)
};

// Weights of all rows. `mask` [rows]: rows that count. `sequence` [rows]: the row's episode, 0 ..
// num_sequences - 1; `group` [num_sequences]: the episode's group, 0 .. num_groups - 1 (kPromptMean only; may
// be empty otherwise). Episodes and groups without a row that counts are left out of the normaliser. Returns
// how many are in it, so that several ranks can make theirs one.
template <class T>
int64_t row_weights(Aggregation kind, double constant, std::span<const uint8_t> mask,
                    std::span<const int32_t> sequence, int64_t num_sequences, std::span<const int32_t> group,
                    int64_t num_groups, T* weight) {
  const bool by_group = kind == Aggregation::kPromptMean, by_sequence = kind != Aggregation::kTokenMean;
  std::vector<int64_t> length(by_group ? num_groups : by_sequence ? num_sequences : 1, 0);
  const auto bin = [&](size_t r) { return by_group ? group[sequence[r]] : by_sequence ? sequence[r] : 0; };
  for (size_t r = 0; r < mask.size(); ++r) length[bin(r)] += mask[r];
  int64_t bins = 0;
  for (const int64_t l : length) bins += l > 0;
  for (size_t r = 0; r < mask.size(); ++r) {
    const double rows = kind == Aggregation::kConstant ? constant : static_cast<double>(length[bin(r)]);
    weight[r] = mask[r] ? static_cast<T>(1 / (static_cast<double>(bins) * rows)) : T(0);
  }
  return bins;
}

}  // namespace trimtab
