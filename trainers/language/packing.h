// From prompts and replies to micro-batches: tries of token segments with the rows that a loss is taken on.
//
// A group is a prompt with the replies to it. With a shared prefix it is one root with a child per reply; without, one root per reply
// (the repeated forward, what a framework without tries does). Groups never attend to each other. Replies that branch (tree.h) share
// their stems in the same way: a stem's tokens are computed and scored once, and every reply that goes through it has rows of its own
// for them. So the derivative of a stem's token is the sum over the leaves it serves, which is their number times their mean.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "policies/language/ops/trie.h"

namespace trimtab {

struct PackedReply {
  std::span<const int32_t> tokens;
  int64_t first_row = 0;               // the update's row of tokens[0]; token t is row first_row + t
  int64_t loss_begin = 0, loss_end = 0;   // tokens that are scored; empty: the reply is left out
  int64_t shared = 0;                     // first tokens in common with the reply before it in the group
};
struct PackedGroup {
  std::span<const int32_t> prompt;
  std::vector<PackedReply> replies;
};

struct MicroBatch {
  Trie trie;
  at::Tensor tokens;                       // [T] i64
  at::Tensor predictor, scored;            // [S] i64: row of `tokens` whose output predicts, and row that is predicted
  at::Tensor target;                       // [S] i64: the token that is predicted; undefined: the one that stands in `scored`
  at::Tensor place;                        // [R] i64: which of the S a row of the update is; undefined: R = S, each its own
  std::vector<int64_t> row;                // [R] rows of the update
};

struct PackingOptions {
  int64_t token_budget = 4096;   // tokens of one micro-batch, unless one sequence alone is longer
  int64_t at_least = 1;          // cut into this many parts of about equal size where there is enough to cut
  bool shared_prefix = true;
};

// Where to cut what is packed: where the parts that are left come out even, which is what shards and ranks wait for.
class EvenParts {
 public:
  EvenParts(int64_t tokens, const PackingOptions& options)
      : budget_(options.token_budget), left_(tokens), parts_(std::max(options.at_least, (tokens + budget_ - 1) / budget_)) {}
  // The open part ends before the next `whole` tokens, which belong together.
  bool even_before(int64_t whole) const { return so_far_ > 0 && parts_ > 1 && 2 * so_far_ + whole > 2 * left_ / parts_; }
  // `tokens` more would be too many.
  bool full_before(int64_t tokens) const { return so_far_ > 0 && so_far_ + tokens > budget_; }
  void add(int64_t tokens) { so_far_ += tokens; }
  void close() { left_ -= so_far_, parts_ = std::max<int64_t>(1, parts_ - 1), so_far_ = 0; }

 private:
  int64_t budget_, left_, parts_, so_far_ = 0;   // left, parts: not closed yet, the open one too
};

// A first token without anything before it (an empty prompt) cannot be scored and is left out.
std::vector<MicroBatch> pack(std::span<const PackedGroup> groups, const PackingOptions& options);

}  // namespace trimtab
