// Statistics of environments (BatchEnvironment::Statistic), put together over shards and ranks.
#pragma once

#include <vector>

#include "core/ranks.h"
#include "envs/environment.h"

namespace trimtab {

using Statistics = std::vector<BatchEnvironment::Statistic>;

// To the one of the same name, or as a new one.
void add_statistic(Statistics& all, BatchEnvironment::Statistic s);
// Those of all ranks, on every rank. An environment may have other statistics on each: which ones depends on what happened.
Statistics over_ranks(Statistics own, Ranks& ranks);

}  // namespace trimtab
