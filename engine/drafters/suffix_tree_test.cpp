#include "engine/drafters/suffix_tree.h"

#include <algorithm>
#include <deque>
#include <set>

#include "core/test_support.h"
#include "engine/drafters/draft_cases.h"

namespace trimtab {
namespace {

int64_t occurrences(const TestText& string, const TestText& text) {
  int64_t count = 0;
  for (int64_t i = 0; i + std::ssize(string) <= std::ssize(text); ++i) count += std::equal(string.begin(), string.end(), text.begin() + i);
  return count;
}

struct Texts {   // what the tree under test has been told
  std::deque<TestText> closed;
  TestText open;
  int64_t count(const TestText& string) const {
    int64_t sum = occurrences(string, open);
    for (const TestText& text : closed) sum += occurrences(string, text);
    return sum;
  }
  int64_t tokens() const {
    int64_t sum = std::ssize(open);
    for (const TestText& text : closed) sum += std::ssize(text);
    return sum;
  }
  std::set<TestText> strings(int64_t depth) const {
    std::set<TestText> out;
    const auto add = [&](const TestText& text) {
      for (auto from = text.begin(); from != text.end(); ++from) {
        for (auto to = from + 1; to - from <= depth; ++to) {
          out.insert(TestText(from, to));
          if (to == text.end()) break;
        }
      }
    };
    for (const TestText& text : closed) add(text);
    add(open);
    return out;
  }
};

TestText tail(const TestText& text, int64_t n) { return TestText(text.end() - n, text.end()); }

// Counts of all strings there are, and of as many that there may not be.
void expect_counts(const SuffixTree& tree, const Texts& texts) {
  for (const TestText& string : texts.strings(tree.depth())) {
    ASSERT_EQ(tree.count(string), texts.count(string));
    TestText other = string;
    other.back() += 1;
    ASSERT_EQ(tree.count(other), texts.count(other));
  }
}

// The suffixes of the open text that occurred before.
void expect_repeated(const SuffixTree& tree, const Texts& texts) {
  int64_t longest = 0;
  while (longest + 1 < tree.depth() && longest + 1 <= std::ssize(texts.open) && texts.count(tail(texts.open, longest + 1)) > 1) ++longest;
  ASSERT_EQ(std::ssize(tree.repeated()), longest);
}

// Every node: children's counts, the most frequent child, no node that need not be.
void expect_sound(SuffixTree& tree, const Texts& texts, int32_t node) {
  uint32_t sum = 0;
  int64_t children = 0;
  int32_t best = SuffixTree::kNone;
  for (int32_t child = tree.node(node).first_child; child != SuffixTree::kNone; child = tree.node(child).next) {
    const SuffixTree::Node &c = tree.node(child), &b = tree.node(std::max(best, 0));
    sum += c.count, ++children;
    ASSERT_EQ(c.parent, node);
    ASSERT_GT(c.length, 0);
    if (best < 0 || c.count > b.count || (c.count == b.count && c.token < b.token)) best = child;
    expect_sound(tree, texts, child);
  }
  ASSERT_EQ(tree.node(node).continued, sum);
  ASSERT_EQ(tree.likeliest_child(node), best);
  if (node > 0 && children == 1 && texts.open.empty()) {
    ASSERT_LT(sum, tree.node(node).count) << "a node where nothing branches or ends";
  }
}

TEST(SuffixTree, CountsWhatASearchCountsAtEveryMoment) {
  for (uint32_t round = 0; round < 60; ++round) {
    Draws draws(test_seed(), Stream::kTest, 930, round);
    SuffixTree tree(2 + draws.below(8));
    Texts texts;
    const uint32_t vocab = 1 + draws.below(4);
    for (const int32_t token : random_text(draws, 70, vocab)) {
      tree.append(token);
      texts.open.push_back(token);
      expect_counts(tree, texts);
      expect_repeated(tree, texts);
      expect_sound(tree, texts, 0);
      if (testing::Test::HasFatalFailure()) FAIL() << "round " << round << " after " << texts.open.size() << " tokens";
    }
    ASSERT_LE(tree.nodes(), 1 + 2 * texts.tokens());
  }
}

TEST(SuffixTree, KeepsCountsRightWhileTextsComeAndGo) {
  for (uint32_t round = 0; round < 60; ++round) {
    Draws draws(test_seed(), Stream::kTest, 931, round);
    SuffixTree tree(2 + draws.below(8));
    Texts texts;
    const uint32_t vocab = 1 + draws.below(4);
    for (int step = 0; step < 30; ++step) {
      if (draws.below(5) < 3) {
        TestText text = random_text(draws, draws.below(25), vocab);
        if (!texts.closed.empty() && draws.below(2) == 0) text = concat(texts.closed[draws.below(static_cast<uint32_t>(texts.closed.size()))], text);
        for (const int32_t token : text) {
          tree.append(token);
          texts.open.push_back(token);
          expect_repeated(tree, texts);
        }
        expect_counts(tree, texts);
        tree.close();
        if (!text.empty()) texts.closed.push_back(text);
        texts.open.clear();
      } else if (tree.closed_texts() > 0) {
        tree.drop_oldest();
        texts.closed.pop_front();
      }
      ASSERT_EQ(tree.closed_texts(), std::ssize(texts.closed));
      ASSERT_EQ(tree.tokens(), texts.tokens());
      expect_counts(tree, texts);
      expect_sound(tree, texts, 0);
      ASSERT_LE(tree.nodes(), 1 + 2 * texts.tokens());
      if (testing::Test::HasFatalFailure()) FAIL() << "round " << round << ", step " << step;
    }
    while (tree.closed_texts() > 0) tree.drop_oldest();
    ASSERT_EQ(tree.nodes(), 1) << "the root alone";
  }
}

TEST(SuffixTree, OneTokenOverAndOver) {
  SuffixTree tree(5);
  for (int i = 0; i < 1000; ++i) tree.append(3);
  for (int64_t n = 1; n <= 5; ++n) EXPECT_EQ(tree.count(TestText(n, 3)), 1001 - n);
  EXPECT_EQ(std::ssize(tree.repeated()), 4);
  tree.close();
  for (int64_t n = 1; n <= 5; ++n) EXPECT_EQ(tree.count(TestText(n, 3)), 1001 - n);
  EXPECT_LE(tree.nodes(), 6);
  EXPECT_EQ(tree.count(TestText{4}), 0);
}

TEST(SuffixTree, EmptyTextsAreNone) {
  SuffixTree tree(4);
  tree.close();
  EXPECT_EQ(tree.closed_texts(), 0);
  EXPECT_DEATH(tree.drop_oldest(), "check failed");
  tree.append(1);
  EXPECT_EQ(tree.count(TestText{1}), 1);
  EXPECT_DEATH(tree.count({}), "check failed");
  EXPECT_DEATH(tree.count(TestText(5, 1)), "check failed");
  EXPECT_DEATH(SuffixTree(1), "check failed");
}

TEST(SuffixMatch, HoldsTheSuffixesThatOccur) {
  for (uint32_t round = 0; round < 60; ++round) {
    Draws draws(test_seed(), Stream::kTest, 932, round);
    SuffixTree tree(2 + draws.below(8));
    SuffixMatch match(tree.depth());
    Texts texts;
    TestText text;
    for (int step = 0; step < 200; ++step) {
      if (draws.below(10) == 0) {
        const TestText other = random_text(draws, 1 + draws.below(30), 4);
        for (const int32_t token : other) tree.append(token);
        tree.close();
        texts.closed.push_back(other);
        if (texts.closed.size() > 3) tree.drop_oldest(), texts.closed.pop_front();
      }
      text.push_back(static_cast<int32_t>(draws.below(4)));
      match.advance(tree, text);
      int64_t longest = 0;
      while (longest + 1 < tree.depth() && longest < std::ssize(text) && texts.count(tail(text, longest + 1)) > 0) ++longest;
      ASSERT_EQ(std::ssize(match.loci()), longest);
      for (int64_t n = 1; n <= longest; ++n) {
        ASSERT_EQ(tree.node(match.loci()[n - 1].node).count, texts.count(tail(text, n)));
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
