// SuffixDecoding (Oliaro et al., arXiv 2411.04975): what followed the text's present ending before, in this text (prompt included) and
// in finished outputs, weighted by how often it did.
//
// Every suffix of the text that occurs in a tree, m tokens long, may draft floor(factor m + offset) tokens: long matches are trusted
// with long drafts. From there the most frequent child is followed while the product of count(child) / count(all children) is at least
// min_prob. The draft with the largest sum of these products wins, over all m and both trees; a tie goes to the longer match, then to
// the sequence's own text. Shape "tree" spends the same number of nodes on the largest products anywhere below the match.
//
// Only occurrences that go on are counted in a product: the text's own end, and that of an output, says nothing about what comes next.
#pragma once

#include <vector>

#include "engine/drafters/drafter.h"
#include "engine/drafters/sequences.h"
#include "engine/drafters/suffix_tree.h"

namespace trimtab {

class SuffixDrafter : public Drafter {
 public:
  explicit SuffixDrafter(const SuffixOptions& options);
  void begin(int64_t sequence, std::span<const int32_t> prompt) override;
  void append(int64_t sequence, std::span<const int32_t> tokens) override;
  DraftTree draft(int64_t sequence, int64_t max_nodes) override;
  void finish(int64_t sequence) override;   // what was appended is remembered, the prompt is not

  const SuffixTree& cache() const { return cache_; }   // of finished outputs

 private:
  struct State {
    explicit State(int64_t depth) : own(depth), match(depth) {}
    SuffixTree own;
    SuffixMatch match;         // in the cache
    int64_t prompt_left = 0;   // tokens of the prompt that `own` still holds
  };
  struct Guess {   // nodes in the order they were chosen
    DraftTree nodes;
    double score = 0;
    int64_t match = 0;
  };
  struct Candidate {   // a node that may be chosen next
    double probability;   // the product
    int32_t depth, parent, token;
    SuffixTree::Locus at;
    bool operator<(const Candidate& other) const;   // is chosen later
  };
  void add(State& state, int32_t token);
  void forget_older_half(State& state) const;
  void remember(std::span<const int32_t> output);
  int64_t nodes_after(int64_t match, int64_t max_nodes) const;
  void best_guess(SuffixTree& tree, std::span<const SuffixTree::Locus> loci, int64_t max_nodes);
  void guess_from(SuffixTree& tree, SuffixTree::Locus at, int64_t num_nodes);
  bool is_beaten(double probability, int64_t num_nodes) const;
  void guess_chain(SuffixTree& tree, SuffixTree::Locus at, int64_t num_nodes);
  void guess_tree(SuffixTree& tree, SuffixTree::Locus at, int64_t num_nodes);
  void add_candidates(SuffixTree& tree, const Candidate& parent, int64_t num_nodes);
  void choose(int32_t token, int32_t parent, double probability);

  SuffixOptions options_;
  SuffixTree cache_;
  Sequences<State> sequences_;
  Guess guess_, best_;   // scratch of draft(), as is the next
  std::vector<Candidate> candidates_;
};

}  // namespace trimtab
