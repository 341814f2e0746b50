// Random options of a cache, for the tests of caches and of what reads through them.
#pragma once

#include "core/random.h"
#include "engine/kv_cache/kv_cache.h"

namespace trimtab {

inline KvCacheOptions random_options(Draws& draws) {
  KvCacheOptions o;
  o.page_tokens = 16 * (1 + draws.below(2)), o.sinks = draws.below(3) == 0 ? 0 : 1 + draws.below(9);
  o.key_groups = draws.below(2) == 0 ? "channel" : "token", o.symmetric = draws.below(3) == 0;
  o.key_norm = o.key_groups == "channel" && draws.below(3) == 0, o.value_channel_scale = draws.below(3) == 0;
  o.rotate_keys = draws.below(2) == 0, o.rotate_values = draws.below(2) == 0;
  return o;
}

}  // namespace trimtab
