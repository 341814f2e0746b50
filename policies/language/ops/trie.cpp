#include "policies/language/ops/trie.h"

#include <algorithm>

#include "core/error.h"

namespace trimtab {

int64_t Trie::add(int64_t parent, int64_t length) {
  const auto index = static_cast<int64_t>(segments.size());
  TT_CHECK_GE(length, 0);
  TT_CHECK_GE(parent, -1);
  TT_CHECK_LT(parent, index);
  Segment s{.parent = parent, .first = num_rows, .length = length, .end = num_rows + length};
  if (parent >= 0) {
    TT_CHECK_EQ(segments[parent].end, num_rows);   // the parent's subtree is still open: depth-first order
    s.position = segments[parent].position + segments[parent].length;
  }
  num_rows += length;
  for (int64_t a = parent; a >= 0; a = segments[a].parent) segments[a].end = num_rows;
  segments.push_back(s);
  return index;
}

std::vector<int64_t> Trie::positions() const {
  std::vector<int64_t> out(num_rows);
  for (const Segment& s : segments)
    for (int64_t k = 0; k < s.length; ++k) out[s.first + k] = s.position + k;
  return out;
}

int64_t Trie::predictor_of_first(int64_t segment) const {
  for (int64_t a = segments[segment].parent; a >= 0; a = segments[a].parent)
    if (segments[a].length > 0) return segments[a].first + segments[a].length - 1;
  return -1;
}

std::vector<int64_t> Trie::predictors() const {
  std::vector<int64_t> out(num_rows);
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    for (int64_t k = 0; k < s.length; ++k) out[s.first + k] = k > 0 ? s.first + k - 1 : predictor_of_first(static_cast<int64_t>(i));
  }
  return out;
}

std::vector<int64_t> Trie::path_rows(int64_t leaf) const {
  std::vector<int64_t> chain;
  for (int64_t a = leaf; a >= 0; a = segments[a].parent) chain.push_back(a);
  std::vector<int64_t> rows;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it)
    for (int64_t k = 0; k < segments[*it].length; ++k) rows.push_back(segments[*it].first + k);
  return rows;
}

}  // namespace trimtab
