// The rows of one router, differentiable: the rule of policies/tsallis for many tokens, and the two losses that go with it (DynMoLE: Li et
// al., arXiv 2504.00661). p [T, N] are a router's probabilities, f32 or f64.
#pragma once

#include <ATen/core/Tensor.h>

#include "policies/tsallis/tsallis.h"

namespace trimtab {

// S_q of every row, [T].
at::Tensor tsallis_entropy(const at::Tensor& p, double q);

struct RoutedRows {
  at::Tensor weights;   // [T, N]: rows of route(). Which experts a row keeps is taken as given; gradients go through what is kept
  int64_t soft = 0;     // rows that go to all
};
RoutedRows route_rows(const at::Tensor& p, const TsallisRouting& routing);

// N sum_i f_i P_i (Fedus et al., arXiv 2101.03961, eq. 4): P_i the mean probability of expert i, f_i its share of the rows' `top` likeliest,
// counts that no gradient goes through. f sums to 1, so even use makes it 1 for every `top`.
at::Tensor balance_loss(const at::Tensor& p, int64_t top = 2);

}  // namespace trimtab
