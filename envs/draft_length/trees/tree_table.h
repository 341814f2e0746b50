// What a drafter without weights would have proposed at every position of recorded texts, for every budget of tree nodes, and how much of
// it the target takes.
//
// This replay is exact, for sampled texts too: such a drafter's tokens are certain (q is one at the token), so a token y stays with
// probability p(y), which is the probability that the recorded text, drawn from p, has y there. A round accepts the path that the text itself
// takes, and goes on where the text does.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/drafters/drafter.h"

namespace trimtab {

struct TreeOutcome {
  int32_t nodes = 0, accepted = 0;
  float expected = 0;   // accepted tokens, by the drafter's own estimates
};

struct TokenText {
  std::vector<int32_t> tokens;
  std::vector<float> entropy;   // of the target's distribution that each came from
};
// Texts of recordings of draft_length (their columns token and target_entropy). DataError.
std::vector<TokenText> read_token_texts(const std::vector<std::string>& files);

class TreeTable {
 public:
  // The drafter reads the texts in order, and remembers each when it is over, as it would in a server.
  TreeTable(std::vector<TokenText> texts, const DrafterOptions& drafter, const std::vector<int64_t>& budgets);

  int64_t texts() const { return static_cast<int64_t>(texts_.size()); }
  int64_t length(int64_t text) const { return static_cast<int64_t>(texts_[text].tokens.size()); }
  float entropy_before(int64_t text, int64_t position) const { return position == 0 ? 0 : texts_[text].entropy[position - 1]; }
  std::span<const TreeOutcome> at(int64_t text, int64_t position) const {   // [budgets]
    return {outcomes_.data() + (first_[text] + position) * budgets_, static_cast<size_t>(budgets_)};
  }

 private:
  std::vector<TokenText> texts_;
  int64_t budgets_;
  std::vector<int64_t> first_;   // position of each text's first token among all
  std::vector<TreeOutcome> outcomes_;
};

}  // namespace trimtab
