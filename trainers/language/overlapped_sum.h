// The sum of a gradient over ranks, bucket by bucket, while backward still makes the rest of it (PyTorch DDP's idea, Li et al.,
// arXiv 2006.15704): backward ends with the first layers, so buckets go from the buffer's end to its beginning.
//
// A bucket is complete when, in the last micro-batch of every shard of this rank, autograd has added to all parameters that touch it. One
// thread sends the buckets, in the same order on every rank.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <torch/csrc/autograd/function.h>

#include "core/pool.h"
#include "core/ranks.h"
#include "policies/language/transformer.h"

namespace trimtab {

class OverlappedSum {
 public:
  // All outlive this; one replica of `model` per shard of this rank.
  OverlappedSum(const Transformer& model, std::span<const Transformer> replicas, Ranks& ranks);
  // Calls learn(shard, before_last) for every shard on the pool; it calls before_last() before its last micro-batch. Adds the sum over shards
  // and ranks to the model's flat_gradient(), to the own piece of it.
  using Learn = std::function<void(int64_t shard, const std::function<void()>& before_last)>;
  void run(Pool& pool, const Learn& learn);

 private:
  struct Parameter {
    int64_t first_bucket = 0, last_bucket = 0;
  };
  // Of one shard; only the thread that runs the shard writes it.
  struct Shard {
    bool last = false;             // its last micro-batch is under way
    std::vector<uint8_t> added;    // [parameters] autograd is done with
  };
  void watch(size_t shard, const Transformer& replica);
  void added(size_t shard, size_t parameter);
  void send();
  void add_bucket(int64_t bucket);
  int64_t begin_of(int64_t bucket) const;
  int64_t num_buckets() const { return static_cast<int64_t>(missing_.size()); }

  const Transformer& model_;
  std::span<const Transformer> replicas_;
  Ranks& ranks_;
  std::vector<Parameter> parameters_;
  std::vector<Shard> shards_;
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators_;   // keep their hooks alive
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> missing_;   // [buckets] additions that are still to come
  bool given_up_ = false;          // a shard has failed
};

}  // namespace trimtab
