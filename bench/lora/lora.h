// The sizes that both sides of the adapters' benchmark have.
#pragma once

#include <cstdint>

namespace trimtab {

// Rows of a decode step (or of a prefill), interleaved (or in segments).
struct LoraSizes {
  int64_t rows = 16, adapters = 8, rank = 16, hidden = 1024;
};

// Agents that share a cache, one query position each.
struct AgentSizes {
  int64_t kv_heads = 8, group = 4, head_dim = 128, context = 8192, agents = 4, rank = 16;
};

constexpr float kLoraScale = 2;

}  // namespace trimtab
