// Gradients of micro-batches on all threads and ranks, with bit-equal results.
//
// LibTorch's own threads would make sums depend on how many there are. So the micro-batches are dealt out to a fixed number of logical
// shards; each runs on one thread with a gradient buffer of its own, and the buffers are added in halves (core/ranks.h). Ranks share the
// shards, and their gradients are added in the same way while backward still runs (overlapped_sum.h): two or four of them make the sums of one.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/pool.h"
#include "core/ranks.h"
#include "policies/language/transformer.h"
#include "trainers/language/overlapped_sum.h"

namespace trimtab {

// The logical shards of this rank: [first, second). ConfigError when there are more ranks than shards.
std::pair<int64_t, int64_t> own_shards(int64_t shards, const Ranks& ranks);

class GradientShards {
 public:
  // `model` and `ranks` outlive it. ConfigError when there are more ranks than shards.
  GradientShards(const Transformer& model, int64_t shards, Ranks& ranks);

  // Does this rank compute that micro-batch?
  bool owns(int64_t micro_batch) const { return owner(micro_batch) == ranks_.rank(); }
  // Calls learn(replica, micro-batch), which adds to the replica's flat_gradient(), for those of `count` that this rank owns, and adds the
  // sum over ranks to the model's flat_gradient(): of several ranks, to the own piece of it (Ranks::sum_scatter).
  using Learn = std::function<void(const Transformer& replica, int64_t micro_batch)>;
  void backward(int64_t count, const Learn& learn, Pool& pool);
  // A replica with the parameters of now; made at the first call.
  const Transformer& replica();

  // What the owners of micro-batches have put into their places, to all ranks.
  template <class T>
  void share(std::vector<T>& each) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (ranks_.size() == 1) return;
    std::string own;
    for (size_t i = 0; i < each.size(); ++i)
      if (owns(static_cast<int64_t>(i))) own.append(reinterpret_cast<const char*>(&each[i]), sizeof(T));
    const std::vector<std::string> all = ranks_.gather(own);
    std::vector<size_t> at(all.size());
    for (size_t i = 0; i < each.size(); ++i) {
      size_t& place = at[owner(static_cast<int64_t>(i))];
      std::memcpy(static_cast<void*>(&each[i]), all[owner(static_cast<int64_t>(i))].data() + place, sizeof(T));
      place += sizeof(T);
    }
  }
  Ranks& ranks() const { return ranks_; }

 private:
  int owner(int64_t micro_batch) const { return owner_[micro_batch % static_cast<int64_t>(owner_.size())]; }
  void make_replicas();

  const Transformer& model_;
  Ranks& ranks_;
  std::vector<int> owner_;              // [shards] the rank
  int64_t first_ = 0, end_ = 0;         // this rank's shards
  std::vector<Transformer> replicas_;   // of them, made when first needed
  std::unique_ptr<OverlappedSum> overlapped_;   // with several ranks
};

}  // namespace trimtab
