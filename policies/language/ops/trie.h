// A trie of token segments in depth-first order: what a group of sequences has in common is stored once.
//
// Rows (tokens) of all segments lie behind one another. In depth-first order the descendants of a segment are one contiguous
// slice right behind it, which is all that attention needs to know (DESIGN 5 of the shared-prefix forward; the ancestor test
// "q sees k iff k's segment is q's or an ancestor of it" is the same thing). Several prompts in one batch are several roots.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trimtab {

struct Trie {
  struct Segment {
    int64_t parent = -1;      // index of the segment it continues; -1: a root
    int64_t first = 0;        // its first row
    int64_t length = 0;       // rows; 0 is allowed (an empty prompt)
    int64_t end = 0;          // one behind the last row of its last descendant
    int64_t position = 0;     // of its first row: a child's continue from its parent's end
  };
  std::vector<Segment> segments;
  int64_t num_rows = 0;

  // Appends a segment; parents come before their children and segments of one subtree behind one another (TT_CHECK).
  int64_t add(int64_t parent, int64_t length);

  std::vector<int64_t> positions() const;             // [num_rows]
  // The row whose output predicts a segment's first token: the last row of the nearest ancestor that has any; -1 for none.
  int64_t predictor_of_first(int64_t segment) const;
  // For every row the row that predicts its token: the row before it in its segment, or predictor_of_first; -1 for none.
  std::vector<int64_t> predictors() const;            // [num_rows]
  // Rows of the root-to-`leaf` sequence, in order.
  std::vector<int64_t> path_rows(int64_t leaf) const;
};

}  // namespace trimtab
