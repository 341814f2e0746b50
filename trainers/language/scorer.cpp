#include "trainers/language/scorer.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "policies/language/floats.h"
#include "policies/language/ops/linear_logprob.h"

namespace trimtab {
namespace {

struct Scored {
  at::Tensor logp, entropy;
};

Scored forward(const Transformer& model, const MicroBatch& batch, double temperature, const ForwardOptions& options) {
  const at::Tensor hidden = model.hidden(batch.tokens, batch.trie, options).index_select(0, batch.predictor);
  auto [logp, entropy] = linear_logprob(hidden, model.head(), batch.tokens.index_select(0, batch.scored), {.temperature = temperature});
  if (!batch.place.defined()) return {logp, entropy};
  return {logp.index_select(0, batch.place), entropy.index_select(0, batch.place)};   // backward adds up over the leaves of a stem
}

}  // namespace

Scorer::Scorer(const Transformer& model, int64_t shards, const ForwardOptions& forward) : model_(model), forward_(forward) {
  for (int64_t i = 0; i < shards; ++i) replicas_.push_back(model.replica());
}

void Scorer::shard_backward(int64_t shard, std::span<const MicroBatch> batches, double temperature, const Loss& loss) {
  at::set_num_threads(1);
  const Transformer& model = replicas_[shard];
  model.flat_gradient().zero_();
  for (size_t i = shard; i < batches.size(); i += replicas_.size()) {
    const Scored scored = forward(model, batches[i], temperature, forward_);
    const at::Tensor logp = scored.logp.detach(), entropy = scored.entropy.detach();
    const at::Tensor d_logp = at::zeros_like(logp), d_entropy = at::zeros_like(entropy);
    loss(static_cast<int64_t>(i), {batches[i].row, floats(logp), floats(entropy), floats(d_logp), floats(d_entropy)});
    torch::autograd::backward({scored.logp, scored.entropy}, {d_logp, d_entropy});
  }
}

void Scorer::backward(std::span<const MicroBatch> batches, double temperature, const Loss& loss, Pool& pool) {
  pool.run(static_cast<int64_t>(replicas_.size()), [&](int64_t shard) { shard_backward(shard, batches, temperature, loss); });
  const torch::NoGradGuard no_grad;
  for (const Transformer& replica : replicas_) model_.flat_gradient().add_(replica.flat_gradient());
}

void Scorer::score(std::span<const MicroBatch> batches, double temperature, const Loss& take, Pool& pool) {
  pool.run(static_cast<int64_t>(batches.size()), [&](int64_t i) {
    at::set_num_threads(1);
    const torch::NoGradGuard no_grad;
    const Scored scored = forward(model_, batches[i], temperature, forward_);
    const at::Tensor d_logp = at::zeros_like(scored.logp), d_entropy = at::zeros_like(scored.entropy);
    take(i, {batches[i].row, floats(scored.logp), floats(scored.entropy), floats(d_logp), floats(d_entropy)});
  });
}

}  // namespace trimtab
