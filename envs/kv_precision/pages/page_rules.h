// The ways people keep a KV cache within its bytes, as packings (engine/cached_forward/kv_quality.h): what a learned policy is compared
// with. All meet the budget of mode pages: after every page, packed pages take at most `bits` per number of the text so far.
//
//   uniform                         the costliest pair of widths that fits everywhere
//   k8v8, k8v4, k4v4, k4v2, k2v2    that pair everywhere, whatever it takes: not at the budget, for orientation
//   first_layers ... random         static widths by a rule (domain/kv_precision/allocation.h)
//   nsga2                           static widths found by KVTuner's search (arXiv 2502.04420), on the table
//   best_allocation                 static widths, the exact optimum of the additive surrogate: the reference
//   random_pages                    pages drawn at random get wider
//   recency                         new pages wide, older ones narrow
//   zipcache                        pages that get the least attention per query that sees them become narrow (2405.14256)
//   sinks_window_W                  the newest pages at W bits, older ones evicted, sinks kept (StreamingLLM, 2309.17453)
//   heavy_hitters_W                 half of what fits the newest pages, half those of the most attention, at W bits (H2O, 2306.14048;
//                                   Keyformer, 2403.09054, keeps alike)
//   prefix_kv_W                     of every layer the pages that together hold one share of its attention, at W bits; the share is
//                                   what the budget allows (PrefixKV, 2412.03409)
//   kivi                            KIVI's quantiser, keys by channel, values in groups of 32 (2402.02750), uniform
//   oscar                           OScaR's: rotated, keys divided by their norm and by channel (2605.19660), uniform
// Where a rule has two widths, they are the costliest pair that fits everywhere and the one two steps above it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "domain/kv_precision/allocation.h"
#include "engine/cached_forward/kv_quality.h"

namespace trimtab {

struct PageRuleOptions {
  const KvSensitivity& table;
  KvCacheOptions cache;
  double bits = 0;
  uint64_t seed = 1;
};

std::vector<std::string> page_rule_names();
bool needs_sensitivities(const std::string& name);   // not the table's pairs and bytes alone
// A rule that cannot meet the budget (its narrowest widths take more) has no packing: nullopt.
std::optional<KvPacking> page_rule(const std::string& name, const PageRuleOptions& options);

}  // namespace trimtab
