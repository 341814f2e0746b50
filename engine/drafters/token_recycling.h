// Token Recycling (Luo et al., "Turning Trash into Treasure", arXiv 2408.08696): the likeliest successors of every token as the target
// last gave them, rejected drafts included, make a tree of guesses at no cost but a table.
//
// The table is [vocab, candidates]. A draft starts at the text's last token and gives every node its first `children` successors, level
// by level. The paper's tree is one fixed, unbalanced shape; here it is a number of children per level.
#pragma once

#include <vector>

#include "engine/drafters/drafter.h"
#include "engine/drafters/sequences.h"

namespace trimtab {

// Scores: the share of committed tokens that stood at a rank of their predecessor's row (recent ones weigh more), multiplied downwards.
class TokenRecycling : public Drafter {
 public:
  explicit TokenRecycling(const TokenRecyclingOptions& options);
  void begin(int64_t sequence, std::span<const int32_t> prompt) override;
  void append(int64_t sequence, std::span<const int32_t> tokens) override;
  DraftTree draft(int64_t sequence, int64_t max_nodes) override;   // cut after max_nodes, breadth-first
  void finish(int64_t sequence) override { sequences_.close(sequence); }
  int64_t candidates() const override { return options_.candidates; }
  // Replaces the row of `token`; what goes beyond `candidates` is ignored.
  void update(int32_t token, std::span<const int32_t> likeliest) override;

 private:
  struct Last {
    int32_t token = -1;   // -1: the text is empty
  };
  std::span<const int32_t> row(int32_t token) const;   // the known successors
  void tally(int32_t before, int32_t token);

  TokenRecyclingOptions options_;
  std::vector<int32_t> table_;   // [vocab, candidates], -1 from the end of what is known
  std::vector<double> hits_;     // [candidates]
  double trials_ = 0;
  Sequences<Last> sequences_;
};

}  // namespace trimtab
