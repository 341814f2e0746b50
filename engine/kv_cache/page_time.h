// How long attention takes for a page of a KV head, by its widths: measured here and now with the real kernels, one query token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache/kv_cache.h"

namespace trimtab {

// Nanoseconds per page for each pair, the median of repeated readings of 64 pages by `group` query heads; 0 for evicted pages.
// ConfigError when the options do not go with head_dim or a pair's widths.
std::vector<double> measure_page_ns(int64_t head_dim, int64_t group, const KvCacheOptions& options, std::span<const KvBits> pairs);

}  // namespace trimtab
