// The passes of agents that share a cache: the base model reading a text into it, and agents continuing that text.
//
// Rows that go to the shared piece are the base model's, one run of consecutive places in a pass; the others are agents' and see the whole
// shared piece with their adapter's values, and their own piece (keys, and values as their adapter makes them).
#pragma once

#include "engine/multi_lora/lora_forward.h"
#include "engine/multi_lora/shared_cache.h"

namespace trimtab {

class SharedForward : public LoraForward {
 public:
  SharedForward(const LoraForwardInputs& in, SharedCache& cache);

 protected:
  void place(int64_t layer, const Part& part) override;
  void attend(int64_t layer, const Part& part) override;

 private:
  struct Scratch {   // of a thread
    std::vector<float> queries, results, own, weights;
    std::vector<LoraQuery> calls;
  };
  void attend_rows(int64_t layer, int64_t kv_head, int64_t first, int64_t end, Scratch& s);
  void attend_own(int64_t layer, int64_t kv_head, const LoraRow& row, const float* query, Scratch& s, float* log_sum, float* out) const;
  float* own_keys(const CacheView& view, int64_t layer, int64_t kv_head) const {
    return view.base + (layer * config().num_kv_heads + kv_head) * view.capacity * (config().head_dim + head_stride());
  }
  float* own_values(const CacheView& view, int64_t layer, int64_t kv_head) const { return own_keys(view, layer, kv_head) + view.capacity * config().head_dim; }

  SharedCache& cache_;
  int64_t group_, step_;   // step_: rows whose queries go through the cache together
  std::vector<Scratch> scratch_;
};

}  // namespace trimtab
