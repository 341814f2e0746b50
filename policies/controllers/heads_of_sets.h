// The heads that answer with several of the items; ActionHead::make gives them out.
//
//   subset   each item is taken with probability sigmoid(its logit), independently; raw = 0 or 1 per item. The mode is the
//            probability itself: the threshold is the consumer's.
//   order    Plackett-Luce: min(picks, present) items without repeats, each by the softmax over the items that are left; raw =
//            their indices, then -1. log p = sum_j (f_kj - log sum of exp f over the items left before pick j).
//
// The entropy of an order is the sum of the conditional softmax entropies along the given picks. By the chain rule its mean
// over draws is the entropy of the whole order, so it is an unbiased estimate. Its gradient is taken along the given picks
// only: how the logits move the distribution of the picks that are conditioned on is left out.
#pragma once

#include <memory>

#include "policies/controllers/heads.h"

namespace trimtab {

std::unique_ptr<ActionHead> make_subset_head(const HeadSpec& spec);
std::unique_ptr<ActionHead> make_order_head(const HeadSpec& spec);

}  // namespace trimtab
