#include "engine/drafters/suffix_tree.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace trimtab {

SuffixTree::SuffixTree(int64_t depth) : depth_(depth), loci_(depth + 1), leaves_(depth, kNone) { TT_CHECK_GE(depth, 2); }

int64_t SuffixTree::bytes() const {
  constexpr int64_t kPerNode = sizeof(Node) + ChildTable<Node>::kBytesPerNode, kPerToken = 2 * sizeof(int32_t);
  return nodes() * kPerNode + tokens() * kPerToken;
}

std::span<const int32_t> SuffixTree::rest_of_edge(Locus at) const {
  const Node& n = nodes_[at.node];
  return std::span(text_).subspan(n.start - base_ + at.offset, extent(n) - at.offset);
}

int32_t SuffixTree::next_node(Locus at, int32_t token) const {
  const Node& n = nodes_[at.node];
  if (static_cast<uint32_t>(at.offset) == extent(n)) return children_.find(nodes_, at.node, token);
  return token_at(n.start + at.offset) == token ? at.node : kNone;
}

int64_t SuffixTree::count(std::span<const int32_t> text) const {
  TT_CHECK(!text.empty() && static_cast<int64_t>(text.size()) <= depth_);
  Locus at;
  for (const int32_t token : text) {
    const int32_t into = next_node(at, token);
    if (into == kNone) return 0;
    at = step(at, into);
  }
  int64_t count = nodes_[at.node].count;
  for (const Locus& on_the_way : repeated()) {   // those entered the edge, too, but have not come that far
    if (on_the_way.node == at.node && on_the_way.offset < at.offset) --count;
  }
  return count;
}

int32_t SuffixTree::likeliest_child(int32_t node) {
  if (nodes_[node].best != kUnknown) return nodes_[node].best;
  nodes_[node].best = kNone;
  for (int32_t child = nodes_[node].first_child; child != kNone; child = nodes_[child].next) better(node, child);
  return nodes_[node].best;
}

// `child` may be its parent's most frequent one now.
void SuffixTree::better(int32_t parent, int32_t child) {
  int32_t& best = nodes_[parent].best;
  if (best == child || best == kUnknown) return;
  const auto is_better = [](const Node& a, const Node& b) { return a.count != b.count ? a.count > b.count : a.token < b.token; };
  if (best == kNone || is_better(nodes_[child], nodes_[best])) best = child;
}

int32_t SuffixTree::new_node(const Node& node) {
  if (free_.empty()) {
    TT_CHECK_LT(nodes_.size(), size_t{INT32_MAX});
    nodes_.push_back(node);
    return static_cast<int32_t>(nodes_.size() - 1);
  }
  const int32_t id = free_.back();
  free_.pop_back();
  nodes_[id] = node;
  return id;
}

void SuffixTree::link(int32_t node) {
  Node& n = nodes_[node];
  n.next = std::exchange(nodes_[n.parent].first_child, node);
  if (n.next != kNone) nodes_[n.next].previous = node;
  children_.insert(nodes_, node);
}

void SuffixTree::unlink(int32_t node) {
  const Node& n = nodes_[node];
  (n.previous == kNone ? nodes_[n.parent].first_child : nodes_[n.previous].next) = n.next;
  if (n.next != kNone) nodes_[n.next].previous = n.previous;
  if (nodes_[n.parent].best == node) nodes_[n.parent].best = kUnknown;
  children_.erase(nodes_, node);
}

// The suffixes that go on along the tree are the shorter ones: what was read before a string was read before its suffixes, too.
void SuffixTree::append(int32_t token) {
  int64_t length = longest_;
  for (; length >= 0 && next_node(loci_[length], token) == kNone; --length) add_leaf(length, token);
  text_.push_back(token);
  ++end_;
  longest_ = std::min(length + 1, depth_ - 1);
  for (; length >= 0; --length) {
    const Locus from = loci_[length];
    const int32_t into = next_node(from, token);
    const Locus to = loci_[length + 1] = step(from, into);
    Node& n = nodes_[into];
    if (into != from.node) {
      ++n.count;
      ++nodes_[from.node].continued;
      better(from.node, into);
    }
    if (to.offset == n.length) n.start = end_ - n.length;   // passed to its end: the newest text that did
  }
}

// The open text's suffix of `length` tokens goes on with a token that never followed it.
void SuffixTree::add_leaf(int64_t length, int32_t token) {
  const Locus at = loci_[length];
  const int32_t above = static_cast<uint32_t>(at.offset) < extent(nodes_[at.node]) ? split(length) : at.node;
  const int32_t leaf =
      new_node({.parent = above, .token = token, .count = 1, .start = end_, .length = static_cast<int32_t>(depth_ - length)});
  link(leaf);
  ++nodes_[above].continued;
  better(above, leaf);
  leaves_[leaves_made_++ % depth_] = leaf;
}

// Makes a node where the open text's suffix of `length` tokens ends; those it is longer than may end above on the same edge.
int32_t SuffixTree::split(int64_t length) {
  const Locus at = loci_[length];
  const int32_t below = at.node;
  Node upper = nodes_[below];
  upper.start = end_ - at.offset, upper.length = at.offset;
  upper.first_child = upper.best = below;
  const int32_t above = new_node(upper);
  if (upper.previous != kNone) nodes_[upper.previous].next = above;
  if (upper.next != kNone) nodes_[upper.next].previous = above;
  Node& parent = nodes_[upper.parent];
  if (parent.first_child == below) parent.first_child = above;
  if (parent.best == below) parent.best = above;
  children_.replace(nodes_, below, above);

  Node& n = nodes_[below];
  for (int64_t l = 1; l <= length; ++l) {
    if (loci_[l].node != below) continue;
    loci_[l].node = above;
    --n.count;   // it did not come down here
  }
  nodes_[above].continued = n.count;
  n.parent = above, n.previous = n.next = kNone;
  n.start += at.offset, n.length -= at.offset;
  n.token = token_at(n.start);
  children_.insert(nodes_, below);
  return above;
}

void SuffixTree::close() {
  if (open_ == end_) return;
  for (; longest_ >= 1; --longest_) {   // a closed text ends at nodes, so that all of an edge has one count
    if (static_cast<uint32_t>(loci_[longest_].offset) < extent(nodes_[loci_[longest_].node])) split(longest_);
  }
  for (int32_t& leaf : leaves_) {
    if (leaf != kNone) nodes_[leaf].length = static_cast<int32_t>(extent(nodes_[leaf]));
    leaf = kNone;
  }
  closed_.push_back({open_, end_});
  open_ = end_;
  ++version_;
}

void SuffixTree::drop_oldest() {
  TT_CHECK(!closed_.empty() && open_ == end_);
  const Text text = closed_.front();
  closed_.pop_front();
  for (uint32_t begin = text.begin; begin != text.end; ++begin) {
    drop_suffix(begin, begin + std::min(text.end - begin, static_cast<uint32_t>(depth_)));
  }
  begin_ = text.end;
  release_text();
  ++version_;
}

void SuffixTree::drop_suffix(uint32_t begin, uint32_t end) {
  int32_t at = 0;
  for (uint32_t position = begin; position != end;) {
    const int32_t child = children_.find(nodes_, at, token_at(position));
    position += nodes_[child].length;
    --nodes_[at].continued;
    if (--nodes_[child].count == 0) {
      drop_below(child);
      break;
    }
    if (nodes_[at].best == child) nodes_[at].best = kUnknown;
    at = child;
  }
  merge_if_plain(at);
}

// Nothing passes `node` any more: it and the one path below it go.
void SuffixTree::drop_below(int32_t node) {
  for (int32_t id = node; id != kNone;) {
    const int32_t child = nodes_[id].first_child;
    unlink(id);
    free_.push_back(id);
    id = child;
  }
}

// A node where no text ends and none branches off is none: its edge and its child's become one.
void SuffixTree::merge_if_plain(int32_t node) {
  const Node n = nodes_[node];
  const int32_t child = n.first_child;
  if (node == 0 || child == kNone || nodes_[child].next != kNone || n.count != n.continued) return;
  children_.erase(nodes_, child);
  children_.replace(nodes_, node, child);
  Node& c = nodes_[child];
  c.parent = n.parent, c.token = n.token, c.next = n.next, c.previous = n.previous;
  c.start -= n.length, c.length += n.length;   // the text that passed the child last came through here
  if (n.next != kNone) nodes_[n.next].previous = child;
  (n.previous == kNone ? nodes_[n.parent].first_child : nodes_[n.previous].next) = child;
  if (nodes_[n.parent].best == node) nodes_[n.parent].best = child;
  free_.push_back(node);
}

void SuffixTree::release_text() {
  const size_t dead = begin_ - base_;
  if (2 * dead < text_.size()) return;
  text_.erase(text_.begin(), text_.begin() + static_cast<int64_t>(dead));
  base_ = begin_;
}

void SuffixMatch::step(const SuffixTree& tree, int32_t token) {
  int64_t length = longest_;
  while (length >= 0 && tree.next_node(loci_[length], token) == SuffixTree::kNone) --length;
  longest_ = std::min(length + 1, tree.depth() - 1);
  for (; length >= 0; --length) loci_[length + 1] = SuffixTree::step(loci_[length], tree.next_node(loci_[length], token));
}

void SuffixMatch::refresh(const SuffixTree& tree, std::span<const int32_t> text) {
  if (version_ == tree.version()) return;
  version_ = tree.version(), longest_ = 0;
  for (const int32_t token : text.last(std::min<size_t>(text.size(), tree.depth() - 1))) step(tree, token);
}

void SuffixMatch::advance(const SuffixTree& tree, std::span<const int32_t> text) {
  if (version_ == tree.version()) {
    step(tree, text.back());
  } else {
    refresh(tree, text);
  }
}

}  // namespace trimtab
