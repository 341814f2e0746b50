// Log-probabilities of packed replies, and gradients through them, on all threads with bit-equal results.
//
// LibTorch's own threads would make sums depend on how many there are. So the work is cut into a fixed number of logical shards; each
// runs on one thread with a gradient buffer of its own, and the buffers are added in the order of the shards.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/pool.h"
#include "policies/language/transformer.h"
#include "trainers/language/packing.h"

namespace trimtab {

class Scorer {
 public:
  Scorer(const Transformer& model, int64_t shards, const ForwardOptions& forward = {});

  // Rows of a micro-batch in plain arrays, all of length rows.size().
  struct Rows {
    std::span<const int64_t> row;        // rows of the update
    std::span<const float> logp, entropy;
    std::span<float> d_logp, d_entropy;  // what a loss writes; zero at first
  };
  using Loss = std::function<void(int64_t micro_batch, const Rows& rows)>;

  // Adds the gradient of the loss, whose derivatives `loss` writes, to the model's flat_gradient(). `loss` is called from several
  // threads, once per micro-batch.
  void backward(std::span<const MicroBatch> batches, double temperature, const Loss& loss, Pool& pool);
  // Log-probabilities alone; `take` is called as `loss` above, and what it writes is ignored.
  void score(std::span<const MicroBatch> batches, double temperature, const Loss& take, Pool& pool);

 private:
  void shard_backward(int64_t shard, std::span<const MicroBatch> batches, double temperature, const Loss& loss);

  const Transformer& model_;
  ForwardOptions forward_;
  std::vector<Transformer> replicas_;   // one per shard
};

}  // namespace trimtab
