// KVTuner's search for static widths (arXiv 2502.04420): NSGA-II (Deb et al. 2002) over a pair for every unit, minimising KL and bytes.
#pragma once

#include <cstdint>

#include "domain/kv_precision/allocation.h"

namespace trimtab {

// The least KL within `budget` among the allocations that `trials` evaluations of the table's surrogate looked at: a population of
// 20, uniform widths among the first, tournaments by rank and crowding, uniform crossover, each unit's pair drawn anew with probability 1 / units. ConfigError for a
// budget that cannot be met; where the search found nothing within it, the cheapest widths everywhere.
KvAllocation nsga2_allocation(const KvSensitivity& table, int64_t budget, int64_t trials, uint64_t seed);

}  // namespace trimtab
