// Routing by Tsallis entropy, soft or hard (DynMoLE: Li et al., arXiv 2504.00661). A router that does not know spreads its token over all
// experts; one that does keeps the few likeliest. Here the rule for one token; policies/language/adapter_mixture trains by it.
//
//   S_q(p) = (1 - sum_i p_i^q) / (q - 1), q > 0; q = 1 is its limit, Shannon's -sum_i p_i ln p_i (Tsallis, J. Stat. Phys. 52, 1988)
//
// Over N experts it is largest for the uniform p: (1 - N^(1 - q)) / (q - 1), or ln N. The threshold is a share of that, so that one number
// means the same for every N and q.
#pragma once

#include <cstdint>
#include <span>

#include "core/error.h"
#include "core/options.h"

namespace trimtab {

// Probabilities that are none: a router or an adapter has gone wrong.
struct NonFiniteRouting : RunError {
  using RunError::RunError;
};

struct TsallisRouting {
  double q = 1.1;           // entropic index
  double threshold = 0.9;   // share of the largest entropy above which a token goes to all experts; 1: never
  double top_p = 0.75;      // else to the fewest likeliest that together have this probability,
  int64_t keep = 2;         // and to at least so many
  void describe(Fields& f);
};

// p [N] are probabilities; a term with p_i = 0 is 0.
double tsallis_entropy(std::span<const double> p, double q);
double largest_tsallis_entropy(int64_t experts, double q);

// p [N] -> weights [N] that sum to 1: p itself where S_q(p) is above the threshold, else p over the kept experts, renormalised, and 0 for
// the rest. Equal probabilities are kept in the order of the experts. Returns whether it was soft. NonFiniteRouting when p is not finite.
bool route(std::span<const double> p, const TsallisRouting& routing, std::span<double> weights);

}  // namespace trimtab
