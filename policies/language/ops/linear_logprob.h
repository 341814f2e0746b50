// Log-probabilities of given tokens under a language-model head, without ever holding [rows, vocabulary]: rows go through
// in chunks, forward and backward, and the backward computes each chunk's logits again.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace trimtab {

struct LinearLogprobOptions {
  double temperature = 1;     // divides the logits, in the loss as in sampling
  int64_t chunk_rows = 256;   // rows of logits held at once
};

// hidden [N, d], weight [V, d], tokens [N] i64 -> log p(tokens) [N] and the entropy of the distributions [N], in nats.
// Differentiable in hidden and weight, through both results, which are in f32 where hidden has 16 bits (composed.h).
std::tuple<at::Tensor, at::Tensor> linear_logprob(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& tokens,
                                                  const LinearLogprobOptions& options = {});

}  // namespace trimtab
