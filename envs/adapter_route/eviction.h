// Which resident adapter makes room. All rules read the books of PagingState, so a rule has no state of its own:
//
//   lru           used longest ago
//   lfu           used least often in this episode
//   lfu_aged      least of a count that fades with every request (half life `kHalfLife` requests)
//   greedy_dual   least of H = L + load time / bytes, L the H of the last one that left (GreedyDual-Size, Cao & Irani, USITS 1997)
//   fifo          loaded first
//   belady        used again last of all (Belady, IBM Systems J. 5, 1966): the most hits for adapters of one size, when who is asked for next
//                 does not depend on the cache. Needs the future
#pragma once

#include <span>
#include <string>
#include <vector>

#include "envs/adapter_route/paging.h"

namespace trimtab {

enum class Eviction { kLru, kLfu, kLfuAged, kGreedyDual, kFifo, kBelady };

std::vector<std::string> eviction_names();            // in the order of Eviction
Eviction eviction_of(const std::string& name);        // ConfigError for an unknown one
// Among the residents but `keep` (where not empty: [N], 1 stays); -1: none. Ties go to the lowest. `future`: adapters that the requests after
// this one ask for, of belady only.
int64_t victim(Eviction rule, const PagingState& state, std::span<const uint8_t> keep = {}, std::span<const int32_t> future = {});

}  // namespace trimtab
