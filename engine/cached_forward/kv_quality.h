// What a cache of mixed widths costs a model on a text: every way of packing reads the same tokens side by side with a cache of 16 bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/cached_forward/cached_forward.h"

namespace trimtab {

struct KvScore {
  double kl = 0;                 // mean over tokens of KL(16 bits || this cache) of the next token, nats
  double cross_entropy = 0;      // mean over tokens but the last of -ln p(next token), nats: perplexity is its exponential
  double bytes = 0;              // held at the end of the text
  double bits_per_element = 0;   // at the end of the text, scales, sinks and tail included
  int64_t tokens = 0;
};

// One entry for each of `packings`; the caches start empty. DataError as CachedForward::run.
std::vector<KvScore> score_packings(const CachedModel& model, const KvCacheOptions& options, std::span<const int32_t> tokens,
                                    std::span<const PackPages> packings);

}  // namespace trimtab
