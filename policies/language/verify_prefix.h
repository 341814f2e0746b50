// A batch's shared-prefix forward and backward held against the same sequences one by one, on the batch itself: what a run does
// at its first update (or at every one), because a wrong gradient trains on without a sign of it.
#pragma once

#include <ATen/core/Tensor.h>

#include "policies/language/transformer.h"

namespace trimtab {

struct PrefixBatch {
  at::Tensor tokens;             // [T] i64, the rows of `trie`
  const Trie& trie;
  at::Tensor rows;               // [N] i64: the rows whose tokens are scored; each has a row before it (Trie::predictors)
  at::Tensor d_logp, d_entropy;  // [N]: derivative of the loss by log-probability and entropy of each; d_entropy may be undefined
  double temperature = 1;
};

// Returns the largest difference: of log-probabilities and entropies (nats) and of every parameter's gradient (relative to the
// largest entry of all gradients). RunError naming what differs most when it is above `tolerance`; 0: 1e-3 in f32, 1e-9 in f64, 0.1 in 16 bits.
// Takes a forward and backward of the batch and one of every sequence; the model's gradient is left as it was.
double verify_shared_prefix(const Transformer& model, const PrefixBatch& batch, double tolerance = 0);

}  // namespace trimtab
