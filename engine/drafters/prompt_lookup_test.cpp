#include "engine/drafters/prompt_lookup.h"

#include <algorithm>

#include "core/test_support.h"
#include "engine/drafters/draft_cases.h"

namespace trimtab {
namespace {

// By the definition: every ending, longest first; every place before, latest first.
TestText by_search(const TestText& text, const PromptLookupOptions& options, int64_t most) {
  const int64_t length = std::ssize(text);
  for (int64_t n = std::min(options.max_ngram, length - 1); n >= options.min_ngram; --n) {
    for (int64_t end = length - 1; end >= n; --end) {
      if (!std::equal(text.end() - n, text.end(), text.begin() + end - n)) continue;
      const int64_t count = std::min({length - end, most, options.num_tokens});
      return TestText(text.begin() + end, text.begin() + end + count);
    }
  }
  return {};
}

TEST(PromptLookup, FindsWhatASearchFinds) {
  for (uint32_t round = 0; round < 200; ++round) {
    Draws draws(test_seed(), Stream::kTest, 910, round);
    PromptLookupOptions options;
    options.max_ngram = 1 + draws.below(6), options.min_ngram = 1 + draws.below(static_cast<uint32_t>(options.max_ngram));
    options.num_tokens = 1 + draws.below(12);
    const TestText text = random_text(draws, 1 + draws.below(120), 1 + draws.below(12));
    const size_t prompt = draws.below(static_cast<uint32_t>(text.size()));
    PromptLookup drafter(options);
    drafter.begin(3, std::span(text).first(prompt));
    for (size_t i = prompt; i < text.size(); ++i) {
      drafter.append(3, {&text[i], 1});
      const int64_t most = 1 + draws.below(15);
      const DraftTree draft = drafter.draft(3, most);
      expect_well_formed(draft, most);
      ASSERT_EQ(draft.tokens, by_search(TestText(text.begin(), text.begin() + i + 1), options, most)) << "round " << round << ", token " << i;
    }
  }
}

TEST(PromptLookup, TakesTheMostRecentOccurrenceOfTheLongestEnding) {
  PromptLookup drafter({.max_ngram = 3, .min_ngram = 1, .num_tokens = 2});
  drafter.begin(1, TestText{1, 2, 3, 7, 1, 2, 3, 8, 3, 9, 1, 2, 3});
  EXPECT_EQ(drafter.draft(1, 5).tokens, (TestText{8, 3}));
  EXPECT_EQ(drafter.draft(1, 1).tokens, TestText{8});
  drafter.append(1, TestText{5});
  EXPECT_EQ(drafter.draft(1, 5).size(), 0);
}

TEST(PromptLookup, KeepsItsHistoryBounded) {
  const PromptLookupOptions options = {.history = 128};
  Draws draws(test_seed(), Stream::kTest, 911);
  const TestText text = random_text(draws, 1000, 6);
  PromptLookup drafter(options);
  drafter.begin(1, {});
  TestText kept;
  for (const int32_t token : text) {
    drafter.append(1, {&token, 1});
    kept.push_back(token);
    if (std::ssize(kept) > options.history) kept.erase(kept.begin(), kept.end() - options.history / 2);
    ASSERT_EQ(drafter.draft(1, 8).tokens, by_search(kept, options, 8));
  }
}

TEST(PromptLookup, OneTokenOverAndOver) {
  PromptLookup drafter({});
  drafter.begin(1, TestText(1000, 4));
  EXPECT_EQ(drafter.draft(1, 8).tokens, TestText{4}) << "the most recent occurrence is one token back";
}

TEST(PromptLookup, ScoresFollowWhatCameTrue) {
  PromptLookup good({}), bad({});
  TestText cycle, broken;
  for (int32_t i = 0; i < 400; ++i) cycle.push_back(i % 7);
  for (int32_t i = 0; i < 400; ++i) broken.push_back(i % 3 == 2 ? i : i % 3);   // 0 1 x: what follows is new each time
  good.begin(1, cycle), bad.begin(1, broken);
  bad.append(1, TestText{0, 1});
  EXPECT_GT(good.draft(1, 4).scores.at(0), 0.95f);
  EXPECT_LT(bad.draft(1, 4).scores.at(0), 0.05f);
}

TEST(PromptLookup, LongDraftsOfBadScoresStayPositive) {
  PromptLookup drafter({.max_ngram = 2, .num_tokens = 4096});
  TestText text;
  for (int32_t i = 0; i < 3000; ++i) text.insert(text.end(), {1, 2, i + 3});
  drafter.begin(1, concat(concat({5, 6}, text), {5, 6}));
  const DraftTree draft = drafter.draft(1, 4096);
  EXPECT_EQ(draft.size(), 4096);
  EXPECT_GT(draft.scores.back(), 0);
}

}  // namespace
}  // namespace trimtab
