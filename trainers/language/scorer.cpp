#include "trainers/language/scorer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "policies/language/floats.h"
#include "policies/language/ops/linear_logprob.h"

namespace trimtab {
namespace {

struct Scored {
  at::Tensor logp, entropy;
};

Scored forward(const Transformer& model, const MicroBatch& batch, double temperature, const ForwardOptions& options) {
  const auto there = [&](const at::Tensor& index) { return index.to(model.flat().device()); };
  const at::Tensor hidden = model.hidden(batch.tokens, batch.trie, options).index_select(0, there(batch.predictor));
  const at::Tensor target = batch.target.defined() ? batch.target : batch.tokens.index_select(0, batch.scored);
  auto [logp, entropy] = linear_logprob(hidden, model.head(), there(target), {.temperature = temperature});
  if (!batch.place.defined()) return {logp, entropy};
  return {logp.index_select(0, there(batch.place)), entropy.index_select(0, there(batch.place))};   // backward adds up over the leaves of a stem
}

at::Tensor here(const at::Tensor& x) { return x.detach().to(at::kCPU); }

// Forward and backward of one micro-batch; adds to the model's flat_gradient().
void learn(const Transformer& model, const MicroBatch& batch, int64_t number, double temperature, const ForwardOptions& options, const Scorer::Loss& loss) {
  const Scored scored = forward(model, batch, temperature, options);
  const at::Tensor logp = here(scored.logp), entropy = here(scored.entropy);
  const at::Tensor d_logp = at::zeros_like(logp), d_entropy = at::zeros_like(entropy);
  loss(number, {batch.row, floats(logp), floats(entropy), floats(d_logp), floats(d_entropy)});
  torch::autograd::backward({scored.logp, scored.entropy}, {d_logp.to(scored.logp.device()), d_entropy.to(scored.entropy.device())});
}

}  // namespace

Scorer::Scorer(const Transformer& model, const ScorerOptions& options) : model_(model), forward_(options.forward), shards_(model, options.shards, *options.ranks) {
  const at::TensorOptions own = model.flat().options();
  if (options.compute.device() != own.device() || options.compute.dtype() != own.dtype()) copy_ = model.copy_as(options.compute);
}

const Transformer& Scorer::computing() {
  if (!copy_) return shards_.replica();
  copy_->refresh(model_);
  return *copy_;
}

void Scorer::copy_backward(std::span<const MicroBatch> batches, double temperature, const Loss& loss) {
  const Transformer& copy = computing();
  at::Tensor sum = at::zeros_like(copy.flat_gradient(), at::TensorOptions().dtype(at::kFloat));   // 16 bits would lose what is small beside it
  for (size_t i = 0; i < batches.size(); ++i) {
    if (!shards_.owns(static_cast<int64_t>(i))) continue;
    copy.flat_gradient().zero_();
    learn(copy, batches[i], static_cast<int64_t>(i), temperature, forward_, loss);
    sum.add_(copy.flat_gradient());
  }
  add_over_ranks(sum);
}

void Scorer::add_over_ranks(const at::Tensor& sum) {
  Ranks& ranks = shards_.ranks();
  if (!device_sum_) device_sum_ = DeviceSum::open(ranks, sum.device());
  if (*device_sum_) (*device_sum_)->sum_scatter(sum);
  const auto [first, end] = *device_sum_ ? ranks.piece(sum.numel(), ranks.rank()) : std::pair<int64_t, int64_t>(0, sum.numel());
  const at::Tensor found = here(sum.slice(0, first, end));
  if (!*device_sum_) ranks.sum_scatter(floats(found));
  const at::NoGradGuard no_grad;
  model_.flat_gradient().slice(0, first, end).add_(found);
}

void Scorer::backward(std::span<const MicroBatch> batches, double temperature, const Loss& loss, Pool& pool) {
  if (copy_) return copy_backward(batches, temperature, loss);
  shards_.backward(static_cast<int64_t>(batches.size()), [&](const Transformer& replica, int64_t i) { learn(replica, batches[i], i, temperature, forward_, loss); }, pool);
}

void Scorer::score(std::span<const MicroBatch> batches, double temperature, const Loss& take, Pool& pool) {
  const Transformer& model = copy_ ? computing() : model_;
  const auto one = [&](int64_t i) {
    if (!shards_.owns(i)) return;
    const at::NoGradGuard no_grad;
    const Scored scored = forward(model, batches[i], temperature, forward_);
    const at::Tensor logp = here(scored.logp), entropy = here(scored.entropy);
    const at::Tensor d_logp = at::zeros_like(logp), d_entropy = at::zeros_like(entropy);
    take(i, {batches[i].row, floats(logp), floats(entropy), floats(d_logp), floats(d_entropy)});
  };
  const auto count = static_cast<int64_t>(batches.size());
  if (copy_) {
    for (int64_t i = 0; i < count; ++i) one(i);
    return;
  }
  pool.run(count, [&](int64_t i) {
    at::set_num_threads(1);
    one(i);
  });
}

}  // namespace trimtab
