// Prompt lookup: what followed the last time the text had its present ending (Saxena, "Prompt Lookup Decoding", 2023; vLLM's `ngram`
// and transformers' `prompt_lookup_num_tokens` are of this kind).
//
// The longest suffix of max_ngram down to min_ngram tokens that occurred before counts, and of its occurrences the most recent one.
// The n-grams of a text are a trie of depth max_ngram whose nodes know where they ended last. The n-gram that ends at a token is the
// child, by that token, of the (n-1)-gram that ended at the token before, so a new token costs max_ngram look-ups, no text is ever
// compared or rescanned, and a draft is a copy.
#pragma once

#include <vector>

#include "engine/drafters/child_table.h"
#include "engine/drafters/drafter.h"
#include "engine/drafters/sequences.h"

namespace trimtab {

// The n-grams of one text.
class NgramIndex {
 public:
  explicit NgramIndex(int64_t max_ngram) : here_(max_ngram + 1), earlier_(max_ngram + 1, -1) {}
  void append(int32_t token);
  // Where the text's last n tokens ended the time before, as the index of the token that followed; -1: never.
  int64_t earlier(int64_t n) const { return earlier_[n]; }
  const std::vector<int32_t>& text() const { return text_; }

 private:
  struct Node {
    int32_t parent = -1, token = -1;
    int32_t last_end = -1;   // index of the token after its last occurrence
  };
  std::vector<int32_t> text_;
  std::vector<Node> nodes_ = {{}};   // the root is 0
  ChildTable<Node> children_;
  std::vector<int32_t> here_;        // [max_ngram + 1], node of the n-gram at the text's end
  std::vector<int32_t> earlier_;     // [max_ngram + 1]
};

// Scores: the share of drafts' first tokens that came true, by the length of the match, over all sequences (recent ones weigh more).
class PromptLookup : public Drafter {
 public:
  explicit PromptLookup(const PromptLookupOptions& options);
  void begin(int64_t sequence, std::span<const int32_t> prompt) override;
  void append(int64_t sequence, std::span<const int32_t> tokens) override;
  DraftTree draft(int64_t sequence, int64_t max_nodes) override;   // a chain
  void finish(int64_t sequence) override { sequences_.close(sequence); }

 private:
  struct Tally {
    double trials = 0, hits = 0;
    double share() const { return (hits + 1) / (trials + 2); }
  };
  int64_t match_length(const NgramIndex& index) const;   // 0: none
  void tally(const NgramIndex& index, int32_t token);
  void forget_older_half(NgramIndex& index) const;

  PromptLookupOptions options_;
  Sequences<NgramIndex> sequences_;
  std::vector<Tally> tallies_;   // [max_ngram + 1]
};

}  // namespace trimtab
