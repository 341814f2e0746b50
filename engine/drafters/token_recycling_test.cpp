#include "engine/drafters/token_recycling.h"

#include <algorithm>
#include <map>

#include "core/test_support.h"
#include "engine/drafters/draft_cases.h"

namespace trimtab {
namespace {

TEST(TokenRecycling, DraftsLevelByLevelFromTheLatestRows) {
  TokenRecycling drafter({.vocab = 10, .candidates = 3, .children = {2, 1}});
  drafter.update(1, TestText{9, 9, 9});
  drafter.update(1, TestText{2, 3, 4, 5});   // replaces the row, and the fourth is not remembered
  drafter.update(2, TestText{6});
  drafter.update(3, TestText{7, 8});
  drafter.begin(1, TestText{0, 1});
  const DraftTree draft = drafter.draft(1, 100);
  EXPECT_EQ(draft.tokens, (TestText{2, 3, 6, 7}));
  EXPECT_EQ(draft.parents, (TestText{-1, -1, 0, 1}));
  EXPECT_EQ(drafter.draft(1, 3).tokens, (TestText{2, 3, 6}));
  drafter.append(1, TestText{5});
  EXPECT_EQ(drafter.draft(1, 100).size(), 0) << "nothing is known of 5";
  drafter.update(5, {});
  EXPECT_EQ(drafter.draft(1, 100).size(), 0);
}

// The same tree by recursion over paths.
void paths_below(const std::map<int32_t, TestText>& rows, const std::vector<int64_t>& children, TestText path, std::vector<TestText>& out) {
  const size_t level = path.size() - 1;
  if (level == children.size()) return;
  const auto row = rows.find(path.back());
  if (row == rows.end()) return;
  for (int64_t rank = 0; rank < std::min(children[level], std::ssize(row->second)); ++rank) {
    out.push_back(concat(path, {row->second[rank]}));
    paths_below(rows, children, out.back(), out);
  }
}

TEST(TokenRecycling, HasThePathsOfTheTable) {
  for (uint32_t round = 0; round < 100; ++round) {
    Draws draws(test_seed(), Stream::kTest, 920, round);
    TokenRecyclingOptions options = {.vocab = 6, .candidates = 4, .children = {}};
    for (uint32_t i = 0, n = 1 + draws.below(4); i < n; ++i) options.children.push_back(1 + draws.below(4));
    TokenRecycling drafter(options);
    std::map<int32_t, TestText> rows;
    for (int i = 0; i < 12; ++i) {
      TestText row = {0, 1, 2, 3, 4, 5};
      for (size_t j = row.size() - 1; j > 0; --j) std::swap(row[j], row[draws.below(static_cast<uint32_t>(j + 1))]);
      row.resize(draws.below(5));
      const auto token = static_cast<int32_t>(draws.below(6));
      drafter.update(token, row);
      rows[token] = row;
    }
    drafter.begin(0, TestText{static_cast<int32_t>(draws.below(6))});
    const auto last = static_cast<int32_t>(draws.below(6));
    drafter.append(0, {&last, 1});
    const DraftTree draft = drafter.draft(0, 5000);
    expect_well_formed(draft, 5000);
    std::vector<TestText> expected, got;
    paths_below(rows, options.children, {last}, expected);
    for (int64_t node = 0; node < draft.size(); ++node) {
      got.push_back(concat(draft.parents[node] < 0 ? TestText{last} : got[draft.parents[node]], {draft.tokens[node]}));
    }
    std::sort(got.begin(), got.end()), std::sort(expected.begin(), expected.end());
    ASSERT_EQ(got, expected);
  }
}

TEST(TokenRecycling, ScoresAreSharesByRank) {
  TokenRecycling drafter({.vocab = 4, .candidates = 2, .children = {2, 2}});
  for (int32_t token = 0; token < 4; ++token) drafter.update(token, TestText{(token + 1) % 4, (token + 2) % 4});
  drafter.begin(1, TestText{0});
  for (int32_t i = 0; i < 97; ++i) drafter.append(1, TestText{(i + 1) % 4});   // always the first rank
  const DraftTree draft = drafter.draft(1, 6);
  EXPECT_FLOAT_EQ(draft.scores[0], 98.0f / 100);
  EXPECT_FLOAT_EQ(draft.scores[1], 1.0f / 100);
  EXPECT_FLOAT_EQ(draft.scores[2], 0.98f * 0.98f);
}

TEST(TokenRecycling, RefusesTokensBeyondTheVocabulary) {
  TokenRecycling drafter({.vocab = 4});
  EXPECT_DEATH(drafter.update(4, TestText{1}), "check failed");
  EXPECT_DEATH(drafter.update(-1, TestText{1}), "check failed");
  EXPECT_DEATH(drafter.update(1, TestText{4}), "check failed");
  EXPECT_DEATH(drafter.begin(1, TestText{4}), "check failed");
}

}  // namespace
}  // namespace trimtab
