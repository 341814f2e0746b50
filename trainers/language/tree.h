// Replies of one prompt that share beginnings (tree rollouts), and advantages at the points where they part.
//
// Replies are leaves in depth-first order, each told by how many of its first tokens are those of the reply before it; a reply that ended
// before its branches parted stands there once per branch, so that every leaf is distributed as the policy's own replies are.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "trainers/advantage/advantage.h"

namespace trimtab {

struct SharedReply {
  int64_t length = 0;   // tokens
  int64_t shared = 0;   // of them in common with the reply before it; of no meaning for the first
};

// Tokens [begin, end) of the replies [first, last), which are the same in all of them.
struct TreeSegment {
  int64_t parent = -1;   // the segment before it; -1: it begins its replies
  int64_t first = 0, last = 0;
  int64_t begin = 0, end = 0;
};

// In depth-first order, parents first. Segments are never empty; replies that share nothing are one segment each.
std::vector<TreeSegment> tree_segments(std::span<const SharedReply> replies);

// Advantages at the branching points: a segment is worth the mean reward of the replies that go through it, and its tokens get what the
// baseline makes of that among its siblings (segments with the same parent; the beginnings of all replies are siblings too). A lone
// segment has nothing to be compared with and gets 0, except with kNone. The value of a node as the mean of its leaves and the comparison
// of siblings alone are TreeRPO's (arXiv 2506.05183); ours are the choice of the baseline, branching by a number of tokens instead of by
// step, and replies that ended early standing for all of their branches.
// `give` is called for every reply and every segment of it.
void sibling_advantages(std::span<const SharedReply> replies, std::span<const double> rewards, GroupBaseline baseline, double std_epsilon,
                        const std::function<void(int64_t reply, int64_t begin, int64_t end, double advantage)>& give);

}  // namespace trimtab
