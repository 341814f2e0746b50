#include "policies/tokenizer/bpe.h"

#include <map>
#include <set>
#include <thread>

#include "policies/tokenizer/tokenizer_test_support.h"

namespace trimtab {
namespace {

using Ids = std::vector<int32_t>;

// Merges over the letters a to c (ids are byte values), products from 256 on.
struct RandomMerges {
  std::vector<BpeMerge> list;
  Bpe make() const {
    Bpe::Definition definition;
    for (int byte = 0; byte < 256; ++byte) definition.byte_ids[byte] = byte;
    definition.merges = MergeTable(list.size());
    for (size_t i = 0; i < list.size(); ++i) definition.merges.insert(list[i], static_cast<int32_t>(i));
    return Bpe(std::move(definition));
  }
};

// Each product is a string of its own, as in a real vocabulary, so two merges may share one.
RandomMerges draw_merges(Draws& draws) {
  std::map<std::string, int32_t> ids{{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
  std::set<std::pair<int32_t, int32_t>> seen;
  RandomMerges merges;
  for (int i = 0; i < 12; ++i) {
    const auto left = std::next(ids.begin(), draws.below(static_cast<uint32_t>(ids.size())));
    const auto right = std::next(ids.begin(), draws.below(static_cast<uint32_t>(ids.size())));
    if (!seen.insert({left->second, right->second}).second) continue;
    const int32_t product =
        ids.try_emplace(left->first + right->first, 253 + static_cast<int32_t>(ids.size())).first->second;
    merges.list.push_back({left->second, right->second, product});
  }
  return merges;
}

// The definition: merge the leftmost pair of smallest rank until there is none.
Ids merge_slowly(const RandomMerges& merges, const std::string& word) {
  Ids ids(word.begin(), word.end());
  for (size_t rank = 0; rank < merges.list.size();) {
    const BpeMerge& merge = merges.list[rank];
    size_t at = 0;
    while (at + 1 < ids.size() && (ids[at] != merge.left || ids[at + 1] != merge.right)) ++at;
    if (at + 1 >= ids.size()) {
      ++rank;
      continue;
    }
    ids[at] = merge.product;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    rank = 0;
  }
  return ids;
}

bool products_differ(const RandomMerges& merges) {
  std::set<int32_t> products;
  for (const BpeMerge& merge : merges.list) products.insert(merge.product);
  return products.size() == merges.list.size();
}

TEST(Bpe, IsTheSlowDefinition) {
  int compared = 0;
  for (uint32_t round = 0; round < 400; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const RandomMerges merges = draw_merges(draws);
    if (!products_differ(merges))
      continue;  // there Hugging Face and the definition part; the oracle test has those
    const Bpe bpe = merges.make();
    for (int word_number = 0; word_number < 20; ++word_number) {
      std::string word;
      for (uint32_t i = 0, length = 1 + draws.below(word_number == 0 ? 150 : 20); i < length; ++i)
        word += static_cast<char>('a' + draws.below(3));
      SCOPED_TRACE(fmt::format("TRIMTAB_TEST_SEED={} round {} word {}", test_seed(), round, word));
      for (const char* pass : {"new", "cached"}) {
        Ids ids;
        bpe.encode(word, ids);
        ASSERT_EQ(ids, merge_slowly(merges, word)) << pass;
      }
      ++compared;
    }
  }
  EXPECT_GT(compared, 500);
}

TEST(Bpe, AMillionEqualLettersTakeNoTimeWorthMentioning) {
  RandomMerges doubling;  // a a -> 256, 256 256 -> 257, ...
  doubling.list.push_back({'a', 'a', 256});
  for (int32_t i = 0; i < 12; ++i) doubling.list.push_back({256 + i, 256 + i, 257 + i});
  Ids ids;
  doubling.make().encode(std::string(1 << 20, 'a'), ids);
  EXPECT_EQ(ids, Ids(128, 268));
}

TEST(Bpe, ThreadsShareTheCache) {
  const auto tokenizer = golden_tokenizer("qwen2");
  const auto alone = golden_tokenizer("qwen2");
  std::vector<std::string> texts;
  std::vector<Ids> expected;
  for (uint32_t i = 0; i < 200; ++i) {
    Draws draws(test_seed(), Stream::kTest, i);
    texts.push_back(random_text(draws));
    expected.push_back(alone->encode(texts.back()));
  }
  std::array<int, 4> wrong{};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t at = (i + 50 * static_cast<size_t>(t)) % texts.size();
        wrong[t] += tokenizer->encode(texts[at]) != expected[at];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

}  // namespace
}  // namespace trimtab
