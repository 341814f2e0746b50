#include "engine/drafters/suffix_drafter.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <tuple>

#include "core/test_support.h"
#include "engine/drafters/draft_cases.h"

namespace trimtab {
namespace {

using TextList = std::deque<TestText>;

// How often each token follows `string`.
std::map<int32_t, int64_t> followers(const TestText& string, const TextList& texts) {
  std::map<int32_t, int64_t> counts;
  for (const TestText& text : texts) {
    for (int64_t end = std::ssize(string); end < std::ssize(text); ++end) {
      if (std::equal(string.begin(), string.end(), text.begin() + end - std::ssize(string))) ++counts[text[end]];
    }
  }
  return counts;
}

struct Guess {
  DraftTree nodes;
  double score = 0;
  int64_t match = 0;
};

struct Choice {
  double probability;
  int64_t depth;
  int32_t parent, token;
  TestText string;   // from the match on
  bool before(const Choice& o) const {
    if (probability != o.probability) return probability > o.probability;
    return std::tie(depth, parent, token) < std::tie(o.depth, o.parent, o.token);
  }
};

// The best choices one by one, all of them looked at every time; a chain has those below the last chosen only.
Guess guess_by_search(const TestText& match, const TextList& texts, const SuffixOptions& options, int64_t num_nodes) {
  Guess guess;
  std::vector<Choice> open;
  const auto open_below = [&](const Choice& parent) {
    if (options.shape == "chain") open.clear();
    if (std::ssize(parent.string) == options.depth) return;
    const auto counts = followers(parent.string, texts);
    double all = 0;
    for (const auto& [token, count] : counts) all += static_cast<double>(count);
    for (const auto& [token, count] : counts) {
      const double p = parent.probability * (static_cast<double>(count) / all);
      if (p >= options.min_prob) open.push_back({p, parent.depth + 1, parent.parent, token, concat(parent.string, {token})});
    }
  };
  open_below({1, 0, -1, -1, match});
  while (!open.empty() && guess.nodes.size() < num_nodes) {
    const auto best = std::min_element(open.begin(), open.end(), [](const Choice& a, const Choice& b) { return a.before(b); });
    Choice chosen = *best;
    open.erase(best);
    guess.nodes.tokens.push_back(chosen.token);
    guess.nodes.parents.push_back(chosen.parent);
    guess.nodes.scores.push_back(static_cast<float>(chosen.probability));
    guess.score += chosen.probability;
    chosen.parent = static_cast<int32_t>(guess.nodes.size()) - 1;
    open_below(chosen);
  }
  return guess;
}

DraftTree draft_by_search(const TestText& text, const TextList& outputs, const SuffixOptions& options, int64_t max_nodes) {
  Guess best;
  for (const TextList& texts : {TextList{text}, outputs}) {
    for (int64_t match = std::min(options.depth - 1, std::ssize(text)); match >= 1; --match) {
      const auto budget = static_cast<int64_t>(std::floor(options.factor * static_cast<double>(match) + options.offset));
      Guess guess = guess_by_search(TestText(text.end() - match, text.end()), texts, options, std::min(budget, max_nodes));
      guess.match = match;
      if (guess.score > best.score || (guess.score == best.score && guess.match > best.match)) best = guess;
    }
  }
  return breadth_first(best.nodes);
}

SuffixOptions random_options(Draws& draws) {
  SuffixOptions o;
  o.depth = 2 + draws.below(11);
  o.factor = draws.below(2) == 0 ? 1 : draws.uniform(0.2f, 3.0f), o.offset = draws.below(3) == 0 ? draws.uniform(-2.0f, 4.0f) : 0;
  o.min_prob = draws.below(2) == 0 ? 0.1 : draws.uniform(0.01f, 0.8f);
  o.shape = draws.below(2) == 0 ? "chain" : "tree";
  o.cached_sequences = draws.below(4);
  return o;
}

// Two sequences at a time, each begun, drafted from and finished again and again, so that the cache changes under a running one.
TEST(SuffixDrafter, DraftsWhatASearchDrafts) {
  for (uint32_t round = 0; round < 30; ++round) {
    Draws draws(test_seed(), Stream::kTest, 940, round);
    const SuffixOptions options = random_options(draws);
    const uint32_t vocab = 1 + draws.below(6);
    SuffixDrafter drafter(options);
    TextList outputs;
    std::map<int64_t, TestText> texts, made;
    for (int step = 0; step < 150; ++step) {
      const int64_t id = draws.below(2);
      if (!texts.contains(id)) {
        texts[id] = random_text(draws, draws.below(15), vocab), made[id] = {};
        drafter.begin(id, texts[id]);
      } else if (draws.below(12) == 0) {
        drafter.finish(id);
        if (!made[id].empty()) outputs.push_back(made[id]);
        if (std::ssize(outputs) > options.cached_sequences) outputs.pop_front();
        texts.erase(id);
        continue;
      } else {
        const TestText next = random_text(draws, draws.below(4), vocab);
        drafter.append(id, next);
        texts[id] = concat(texts[id], next), made[id] = concat(made[id], next);
      }
      const int64_t most = 1 + draws.below(14);
      const DraftTree draft = drafter.draft(id, most), expected = draft_by_search(texts[id], outputs, options, most);
      expect_well_formed(draft, most);
      ASSERT_EQ(draft.tokens, expected.tokens) << "round " << round << ", step " << step;
      ASSERT_EQ(draft.parents, expected.parents);
      ASSERT_EQ(draft.scores, expected.scores);
    }
  }
}

TEST(SuffixDrafter, RemembersOutputsButNotPrompts) {
  SuffixDrafter drafter({});
  drafter.begin(1, TestText{1, 2, 3});
  drafter.append(1, TestText{4, 5, 6, 7});
  drafter.finish(1);
  drafter.begin(2, TestText{4, 5});
  EXPECT_EQ(drafter.draft(2, 8).tokens, (TestText{6, 7}));
  drafter.begin(3, TestText{1, 2});
  EXPECT_EQ(drafter.draft(3, 8).size(), 0);
}

TEST(SuffixDrafter, TiesGoToTheLowerToken) {
  SuffixDrafter drafter({.offset = 2, .shape = "tree"});
  drafter.begin(1, TestText{1, 9, 1, 4, 1, 6, 1});
  EXPECT_EQ(drafter.draft(1, 3).tokens, (TestText{4, 6, 9}));
}

TEST(SuffixDrafter, RepetitionMakesLongDrafts) {
  SuffixDrafter drafter({.depth = 64});
  TestText text;
  for (int32_t i = 0; i < 5000; ++i) text.push_back(i % 11);
  drafter.begin(1, text);
  const DraftTree draft = drafter.draft(1, 100);
  ASSERT_EQ(draft.size(), 32);   // half the depth matched, half drafted
  for (int32_t i = 0; i < 32; ++i) EXPECT_EQ(draft.tokens[i], (5000 + i) % 11);
  EXPECT_EQ(draft.scores.back(), 1);
}

TEST(SuffixDrafter, ForgetsTheOlderHalfOfALongText) {
  const SuffixOptions options = {.depth = 8, .history = 128};
  Draws draws(test_seed(), Stream::kTest, 941);
  SuffixDrafter drafter(options);
  drafter.begin(1, random_text(draws, 50, 5));
  TestText made, kept;
  for (int i = 0; i < 40; ++i) {
    const TestText next = random_text(draws, 10, 5);
    drafter.append(1, next);
    made = concat(made, next);
  }
  drafter.finish(1);
  const auto left = drafter.cache().tokens();
  EXPECT_GE(left, 64);
  EXPECT_LE(left, 128);
  for (size_t i = made.size() - left; i < made.size(); ++i) kept.push_back(made[i]);
  for (int32_t token = 0; token < 5; ++token) {
    EXPECT_EQ(drafter.cache().count(TestText{token}), std::count(kept.begin(), kept.end(), token));
  }
}

TEST(SuffixDrafter, ForgetsNoOutputWhileOnlyThePromptIsLost) {
  SuffixDrafter drafter({.depth = 8, .history = 128});
  drafter.begin(1, TestText(127, 1));
  drafter.append(1, TestText{2, 3, 4});
  drafter.finish(1);
  EXPECT_EQ(drafter.cache().tokens(), 3);
  EXPECT_EQ(drafter.cache().count(TestText{2, 3, 4}), 1);
}

TEST(SuffixDrafter, KeepsTheCacheWithinItsMemory) {
  SuffixDrafter drafter({.cached_mib = 1});
  Draws draws(test_seed(), Stream::kTest, 942);
  TestText last;
  for (int64_t id = 0; id < 60; ++id) {
    last = random_text(draws, id == 40 ? 20000 : 500, id % 3 == 0 ? 3 : 30000);   // one is more than fits
    drafter.begin(id, {});
    drafter.append(id, last);
    drafter.finish(id);
    ASSERT_LE(drafter.cache().bytes(), 1 << 20);
    ASSERT_GE(drafter.cache().closed_texts(), 1);
    ASSERT_GE(drafter.cache().count(std::span(last).last(20)), 1);
  }
  EXPECT_GT(drafter.cache().closed_texts(), 5);
}

TEST(SuffixDrafter, CanDoWithoutACache) {
  SuffixDrafter drafter({.cached_sequences = 0});
  drafter.begin(1, {});
  drafter.append(1, TestText{1, 2, 3});
  drafter.finish(1);
  EXPECT_EQ(drafter.cache().tokens(), 0);
}

}  // namespace
}  // namespace trimtab
