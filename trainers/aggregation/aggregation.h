// Seam 5, aggregation: how rows become one number. A loss is sum_i weight_i L_i with weights from the GLOBAL
// batch, so that cutting it into micro-batches, shards or ranks changes nothing but rounding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trimtab {

// DCPO (arXiv 2509.02333) calls its loss only-token-mean and publishes three definitions of it, for a group
// of G responses o_i: README (en) sum_i 1/|o_i| sum_t, README (zh) 1/G sum_i sum_t, and in the code a masked
// mean over the tokens of a micro-batch. They are kOnlyTokenMean, kOnlyTokenSum and, with the global batch in
// place of the micro-batch, kTokenMean; groups are averaged in all. The preset dcpo takes the first, the one
// definition with a mean over the tokens of a response and none over the batch of responses.
enum class Aggregation {
  kTokenMean,      // every row alike: 1 / rows
  kSequenceMean,   // every episode alike: 1 / (episodes x rows of the episode)
  kConstant,       // 1 / (episodes x constant): no length bias (Dr. GRPO, arXiv 2503.20783)
  kPromptMean,     // every group alike, rows alike inside a group: 1 / (groups x rows of the group)
  kOnlyTokenMean,  // a group's sum of its episodes' means: 1 / (groups x rows of the episode)
  kOnlyTokenSum,   // a group's mean of its episodes' sums: 1 / (groups x episodes of the group)
};

// Weights of all rows. `mask` [rows]: rows that count. `sequence` [rows]: the row's episode, 0 ..
// num_sequences - 1; `group` [num_sequences]: the episode's group, 0 .. num_groups - 1 (may be empty for the
// first three kinds). Episodes and groups without a row that counts are left out of the normaliser. Returns
// how many are in it (rows as one: 1), so that several ranks can make theirs one.
template <class T>
int64_t row_weights(Aggregation kind, double constant, std::span<const uint8_t> mask,
                    std::span<const int32_t> sequence, int64_t num_sequences, std::span<const int32_t> group,
                    int64_t num_groups, T* weight) {
  const bool by_group = kind == Aggregation::kPromptMean || kind == Aggregation::kOnlyTokenMean ||
                        kind == Aggregation::kOnlyTokenSum;
  const bool by_sequence = kind == Aggregation::kSequenceMean || kind == Aggregation::kConstant;
  // Rows of every episode; rows and episodes of every bin: what is averaged over.
  std::vector<int64_t> length(num_sequences, 0);
  for (size_t r = 0; r < mask.size(); ++r) length[sequence[r]] += mask[r];
  const auto bin = [&](int32_t s) { return by_group ? group[s] : by_sequence ? s : 0; };
  std::vector<int64_t> rows(by_group ? num_groups : by_sequence ? num_sequences : 1, 0), episodes(rows);
  for (int32_t s = 0; s < num_sequences; ++s) rows[bin(s)] += length[s], episodes[bin(s)] += length[s] > 0;
  int64_t bins = 0;
  for (const int64_t n : rows) bins += n > 0;
  for (size_t r = 0; r < mask.size(); ++r) {
    weight[r] = 0;
    if (!mask[r]) continue;
    const int32_t s = sequence[r];
    double share = static_cast<double>(rows[bin(s)]);
    if (kind == Aggregation::kConstant) share = constant;
    if (kind == Aggregation::kOnlyTokenMean) share = static_cast<double>(length[s]);
    if (kind == Aggregation::kOnlyTokenSum) share = static_cast<double>(episodes[bin(s)]);
    weight[r] = static_cast<T>(1 / (static_cast<double>(bins) * share));
  }
  return bins;
}

}  // namespace trimtab
