// Which widths every layer (or KV head) gets, under a budget of bytes: the rules people use, and the exact optimum of the additive
// surrogate. An allocation is a pair's index for every unit of a KvSensitivity.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "domain/kv_precision/sensitivity.h"

namespace trimtab {

using KvAllocation = std::vector<int>;   // [units]

double surrogate_kl(const KvSensitivity& table, const KvAllocation& allocation);
int64_t allocation_bytes(const KvSensitivity& table, const KvAllocation& allocation);   // of one page of all units
KvAllocation uniform_allocation(const KvSensitivity& table, int pair);

// The cheapest pair and its bytes over all units: a budget below is a ConfigError wherever one is asked for.
int cheapest_pair(const KvSensitivity& table);
int64_t least_bytes(const KvSensitivity& table);
// Pairs from the cheapest to the costliest; of equal cost only the first.
std::vector<int> pair_ladder(const KvSensitivity& table);
// The costliest pair that fits everywhere; the cheapest where none does.
int widest_uniform_pair(const KvSensitivity& table, int64_t budget);

// The least surrogate KL within `budget` bytes, exactly: dynamic programming over the budget in steps of what all pairs' bytes divide by.
KvAllocation best_allocation(const KvSensitivity& table, int64_t budget);

// Heuristics at a budget, by name. All units get the costliest pair that fits everywhere; then, in an order, units get the next costlier
// one while the budget lasts:
//   first_layers, last_layers   from either end (skip lists; llama.cpp's first and last flags)
//   both_ends                   from both ends inwards
//   sensitive_first             by the KL that widening a unit saves
//   random                      in an order drawn by `seed`
std::vector<std::string> heuristic_names();
KvAllocation heuristic_allocation(const KvSensitivity& table, const std::string& name, int64_t budget, uint64_t seed);

// The price of a byte at which the relaxed problem of units [first, units) meets `budget`, by bisection; 0 where nothing binds.
double byte_price(const KvSensitivity& table, int64_t first, int64_t budget);
// The KL that the relaxed problem of all units reaches within `budget`: units may be split between pairs. A lower bound of the optimum.
double relaxed_kl(const KvSensitivity& table, int64_t budget);

// Widths of every KV head, [layers * kv_heads].
std::vector<KvBits> head_widths(const KvSensitivity& table, const KvAllocation& allocation);

}  // namespace trimtab
