// The suffix tree of many texts, cut at a depth, with counts: how often every string of up to `depth` tokens occurs, and what follows it.
//
// Built from left to right like Ukkonen's ("On-line construction of suffix trees", Algorithmica 14, 1995), with two differences. Counts
// must be right at every moment, so each suffix of the text that occurred before is moved on by every token (up to depth of them, often
// one or two) instead of the longest only. And edges are cut at the depth, so nothing grows with the length of a text but its leaves.
//
// A suffix that occurred never before is one leaf, whose edge grows with the text by itself. An edge refers to the newest text that
// passed through all of it, so the oldest text can be dropped while nodes that others share stay (Fiala and Greene, "Data compression
// with finite windows", CACM 32(4), 1989). At most two nodes are made per token, however repetitive or random the texts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "engine/drafters/child_table.h"

namespace trimtab {

class SuffixTree {
 public:
  // Where a string ends: `offset` tokens down the edge that leads to `node`. The root's edge has no tokens.
  struct Locus {
    int32_t node = 0, offset = 0;
  };
  struct Node {   // and the edge that leads to it
    int32_t parent = -1, token = -1;     // the edge's first token
    int32_t first_child = -1, next = -1, previous = -1;   // siblings in no order
    int32_t best = -1;                   // most frequent child, -1: none, kUnknown: to be found
    uint32_t count = 0;                  // occurrences that entered the edge
    uint32_t continued = 0;              // occurrences that went on to a child: the children's counts
    uint32_t start = 0;                  // the edge's tokens in the text
    int32_t length = 0;                  // of the edge; a leaf of the open text grows up to it
  };
  static constexpr int32_t kNone = -1;
  static constexpr int64_t kBytesPerToken = 2 * (sizeof(Node) + ChildTable<Node>::kBytesPerNode) + 2 * sizeof(int32_t);   // of bytes()

  explicit SuffixTree(int64_t depth);   // 2 or more

  void append(int32_t token);   // to the open text
  void close();                 // ends the open text, if it has tokens; the next token begins another
  void drop_oldest();           // of the closed texts; none may be open

  int64_t depth() const { return depth_; }
  int64_t closed_texts() const { return static_cast<int64_t>(closed_.size()); }
  int64_t tokens() const { return end_ - begin_; }   // of all texts
  int64_t nodes() const { return static_cast<int64_t>(nodes_.size() - free_.size()); }
  int64_t bytes() const;                             // in use, at most; vectors may hold as much again in reserve
  int64_t version() const { return version_; }       // loci from outside are good as long as it stays
  // The open text's suffixes of 1, 2, ... tokens that occurred before, up to the longest or to depth - 1 tokens.
  std::span<const Locus> repeated() const { return std::span(loci_).subspan(1, longest_); }
  std::span<const int32_t> open_text() const { return std::span(text_).subspan(open_ - base_); }

  const Node& node(int32_t id) const { return nodes_[id]; }
  std::span<const int32_t> rest_of_edge(Locus at) const;   // the only tokens that follow; empty: look at the node's children
  int32_t likeliest_child(int32_t node);                   // kNone at a leaf; a tie goes to the lower token id
  // The node whose edge the token after `at` lies on; kNone: the string does not occur with this token.
  int32_t next_node(Locus at, int32_t token) const;
  // The locus one token on, where next_node() led.
  static Locus step(Locus at, int32_t into) { return {into, into == at.node ? at.offset + 1 : 1}; }
  int64_t count(std::span<const int32_t> text) const;      // occurrences; at most depth tokens

 private:
  static constexpr int32_t kUnknown = -2;
  struct Text {
    uint32_t begin, end;
  };
  uint32_t extent(const Node& n) const { return std::min(static_cast<uint32_t>(n.length), end_ - n.start); }
  int32_t token_at(uint32_t position) const { return text_[position - base_]; }
  int32_t new_node(const Node& node);
  void link(int32_t node);
  void unlink(int32_t node);
  void better(int32_t parent, int32_t child);
  void add_leaf(int64_t length, int32_t token);
  int32_t split(int64_t length);
  void drop_suffix(uint32_t begin, uint32_t end);
  void drop_below(int32_t node);
  void merge_if_plain(int32_t node);
  void release_text();

  int64_t depth_;
  // Positions count tokens ever appended, modulo 2^32: only differences matter.
  std::vector<int32_t> text_;
  uint32_t base_ = 0, begin_ = 0, open_ = 0, end_ = 0;   // of text_, the oldest text, the open one, its end
  std::deque<Text> closed_;
  std::vector<Node> nodes_ = {{}};   // the root is 0
  std::vector<int32_t> free_;
  ChildTable<Node> children_;
  std::vector<Locus> loci_;      // [depth + 1], by length; 0 is the root
  int64_t longest_ = 0;
  std::vector<int32_t> leaves_;  // [depth], the open text's newest, round robin; -1: none
  int64_t leaves_made_ = 0;
  int64_t version_ = 0;
};

// The suffixes of a growing text that occur in a tree of other texts, moved on token by token.
class SuffixMatch {
 public:
  explicit SuffixMatch(int64_t depth) : loci_(depth + 1) {}
  // `text` ends with the new token. After the tree has changed its last depth - 1 tokens are matched anew.
  void advance(const SuffixTree& tree, std::span<const int32_t> text);
  void refresh(const SuffixTree& tree, std::span<const int32_t> text);
  // Suffixes of 1, 2, ... tokens, up to the longest or to depth - 1 tokens.
  std::span<const SuffixTree::Locus> loci() const { return std::span(loci_).subspan(1, longest_); }

 private:
  void step(const SuffixTree& tree, int32_t token);
  std::vector<SuffixTree::Locus> loci_;   // [depth + 1], by length; 0 is the root
  int64_t longest_ = 0, version_ = 0;
};

}  // namespace trimtab
