// Byte-pair encoding of one word: starting from its bytes, the neighbouring pair with the smallest rank is
// merged (the leftmost of equals) until no pair is in the list. A linked list and a heap: O(n log n) for a
// word of n bytes, whatever it is.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "policies/tokenizer/vocabulary.h"

namespace trimtab {

// left right -> product, all ids; the place in the list is the rank.
struct BpeMerge {
  int32_t left = 0, right = 0, product = 0;
};

// (left, right) -> rank and product, by open addressing.
class MergeTable {
 public:
  struct Entry {
    uint64_t key = 0;
    int32_t rank = -1, product = -1;  // rank < 0: no entry
  };
  explicit MergeTable(size_t num_merges);
  bool insert(const BpeMerge& merge, int32_t rank);  // false: the pair is there
  const Entry* find(int32_t left, int32_t right) const;
  std::vector<int32_t> products() const;

 private:
  size_t slot(uint64_t key) const;
  std::vector<Entry> entries_;  // a power of two, at most half full
};

class WordCache;

class Bpe {
 public:
  struct Definition {
    std::array<int32_t, 256> byte_ids{};
    MergeTable merges{0};
    IdsByToken whole_words;  // bytes -> id: these are taken whole, without merging ("ignore_merges")
  };
  explicit Bpe(Definition definition);
  ~Bpe();

  // Appends the ids of `word`. Safe from several threads.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  void merge(std::string_view word, std::vector<int32_t>& ids) const;
  Definition definition_;
  std::unique_ptr<WordCache> cache_;
};

}  // namespace trimtab
