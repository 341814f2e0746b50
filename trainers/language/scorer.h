// Log-probabilities of packed replies, and gradients through them, on all threads and ranks with bit-equal results.
//
// Micro-batches are shared by threads and ranks (gradient_shards.h). Where `compute` names another format or device than the model's, all of it runs on one copy there, micro-batch by micro-batch: the
// model keeps the f32 masters, the copy is made from them anew at every call, and gradients add up in f32 (mixed precision, arXiv 1710.03740). Ranks with a GPU each add up there (device_sum.h).
#pragma once

#include <ATen/core/Tensor.h>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/pool.h"
#include "policies/language/transformer.h"
#include "trainers/language/device_sum.h"
#include "trainers/language/gradient_shards.h"
#include "trainers/language/packing.h"

namespace trimtab {

struct ScorerOptions {
  int64_t shards = 1;
  ForwardOptions forward = {};
  at::TensorOptions compute = at::TensorOptions().dtype(at::kFloat);   // device and format of activations
  Ranks* ranks = &one_process();
};

class Scorer {
 public:
  Scorer(const Transformer& model, const ScorerOptions& options);

  // Rows of a micro-batch in plain arrays, all of length rows.size().
  struct Rows {
    std::span<const int64_t> row;        // rows of the update
    std::span<const float> logp, entropy;
    std::span<float> d_logp, d_entropy;  // what a loss writes; zero at first
  };
  using Loss = std::function<void(int64_t micro_batch, const Rows& rows)>;

  // Adds the gradient of the loss, whose derivatives `loss` writes, to the model's flat_gradient(): this rank's part of it. `loss` is called
  // from several threads, once per micro-batch that this rank owns; share() gives what it found to all.
  void backward(std::span<const MicroBatch> batches, double temperature, const Loss& loss, Pool& pool);
  // Log-probabilities alone; `take` is called as `loss` above, and the derivatives it writes are ignored.
  void score(std::span<const MicroBatch> batches, double temperature, const Loss& take, Pool& pool);
  template <class T>
  void share(std::vector<T>& each) const {
    shards_.share(each);
  }
  // The model that computes: a replica, or the copy, with the parameters of now.
  const Transformer& computing();

 private:
  void copy_backward(std::span<const MicroBatch> batches, double temperature, const Loss& loss);
  void add_over_ranks(const at::Tensor& sum);

  const Transformer& model_;
  ForwardOptions forward_;
  GradientShards shards_;
  std::optional<Transformer> copy_;
  std::optional<std::unique_ptr<DeviceSum>> device_sum_;   // opened at the first sum; null inside: sums go over the CPU
};

}  // namespace trimtab
