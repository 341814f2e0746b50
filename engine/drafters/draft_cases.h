// Texts and checks that the drafters' tests share.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/random.h"
#include "engine/drafters/drafter.h"

namespace trimtab {

using TestText = std::vector<int32_t>;

// Random tokens with copies of earlier pieces, so that long matches occur; few token ids, so that short ones do.
inline TestText random_text(Draws& draws, int64_t length, uint32_t vocab) {
  TestText text;
  while (std::ssize(text) < length) {
    if (text.empty() || draws.below(3) > 0) {
      text.push_back(static_cast<int32_t>(draws.below(vocab)));
    } else {
      const size_t from = draws.below(static_cast<uint32_t>(text.size()));
      for (size_t i = 0, n = 1 + draws.below(8); i < n; ++i) text.push_back(text[from + i]);
    }
  }
  text.resize(length);
  return text;
}

inline void expect_well_formed(const DraftTree& tree, int64_t max_nodes) {
  ASSERT_LE(tree.size(), max_nodes);
  ASSERT_EQ(tree.parents.size(), tree.tokens.size());
  ASSERT_EQ(tree.scores.size(), tree.tokens.size());
  for (int64_t node = 0; node < tree.size(); ++node) {
    const int32_t parent = tree.parents[node];
    ASSERT_LT(parent, node);
    ASSERT_GE(parent, -1);
    ASSERT_GT(tree.scores[node], 0);
    ASSERT_LE(tree.scores[node], parent < 0 ? 1 : tree.scores[parent]);
    if (node > 0) {
      ASSERT_GE(draft_depth(tree, node), draft_depth(tree, node - 1));
    }
    for (int64_t other = 0; other < node; ++other) {
      ASSERT_FALSE(tree.parents[other] == parent && tree.tokens[other] == tree.tokens[node]) << "siblings are equal";
    }
  }
}

inline TestText concat(TestText a, const TestText& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace trimtab
