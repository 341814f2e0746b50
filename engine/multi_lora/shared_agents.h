// Agents that differ by LoRA adapters on q and v and work on one text: the text is computed once, by the base model, and all agents decode
// from its cache (LRAgent, arXiv 2602.01053). An agent's values of the text are V + scale Z B, Z = x A of the base model's x kept beside K and
// V: rank numbers a key and layer, once for all agents whose A are equal.
//
// Approximated: from the second layer on, an agent's own hidden states of the text would differ from the base model's, so its K, V and Z there
// are those of other inputs. Exact: the first layer; a text of one token; everything when B is zero; and, given the text's cache, the agent's
// own pass over the last token of the text and over what it generates, whose keys and values are its own.
//
// Draws are keyed as Generator's; a sequence is the same, bit for bit, whatever agents decode beside it and however many threads there are.
// A text without cache, or adapters on other layers: MultiLoraGenerator.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/pool.h"
#include "engine/adapters/adapter_weights.h"
#include "engine/generation/generator.h"

namespace trimtab {

struct AgentRequest {
  int64_t agent = 0;            // its number among the agents
  int64_t samples = 1;
  uint64_t key = 0;             // what the draws belong to
  int64_t first_sample = 0;
  int64_t max_tokens = 0;       // 0: that of the sampling options
};

// Of the text that is in the cache now.
struct AgentCacheBytes {
  int64_t one_cache = 0;    // K and V of one model, as Generator keeps them for a prompt of this length
  int64_t low_rank = 0;     // every distinct Z
  int64_t total = 0;        // all that is kept for the text, low_rank included
};

class SharedAgents {
 public:
  // Agents: null for the base model. They and the model must outlive this. Weights are packed as they are now. ConfigError as
  // MultiLoraGenerator's and for heads above 255; DataError for an adapter that changes more than q_proj and v_proj, does not fit the model,
  // or has a rank on v_proj above kLoraMostRank.
  SharedAgents(const Transformer& base, std::vector<const AdapterWeights*> agents, int64_t most_tokens, GeneratorOptions options, Pool& pool);
  ~SharedAgents();

  // Appends to the text: a prompt, an agent's answer, a tool's. DataError, and nothing read, for ids outside the vocabulary or a text beyond
  // most_tokens or the model's positions.
  void read(std::span<const int32_t> tokens, Pool& pool);
  void clear();
  int64_t tokens() const;

  // Continuations of the text, which stays as it is. In the order of requests, and of samples within. Errors as Generator's; DataError for
  // an agent that there is not. A token budget ends a call early, but what was begun is not continued.
  std::vector<Completion> generate(std::span<const AgentRequest> requests, const SamplingOptions& sampling, const StopRules& stop, uint64_t seed, Pool& pool);

  AgentCacheBytes cache_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
