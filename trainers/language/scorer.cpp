#include "trainers/language/scorer.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <cmath>

#include "core/error.h"
#include "policies/language/ops/linear_logprob.h"

namespace trimtab {
namespace {

struct Scored {
  at::Tensor logp, entropy;
};

Scored forward(const Transformer& model, const MicroBatch& batch, double temperature) {
  const at::Tensor hidden = model.hidden(batch.tokens, batch.trie).index_select(0, batch.predictor);
  auto [logp, entropy] = linear_logprob(hidden, model.head(), batch.target, {.temperature = temperature});
  return {logp, entropy};
}

std::span<float> floats(const at::Tensor& t) { return {t.data_ptr<float>(), static_cast<size_t>(t.numel())}; }

}  // namespace

Scorer::Scorer(const Transformer& model, int64_t shards) : model_(model) {
  for (int64_t i = 0; i < shards; ++i) replicas_.push_back(model.replica());
}

void Scorer::shard_backward(int64_t shard, std::span<const MicroBatch> batches, double temperature, const Loss& loss) {
  at::set_num_threads(1);
  const Transformer& model = replicas_[shard];
  model.flat_gradient().zero_();
  for (size_t i = shard; i < batches.size(); i += replicas_.size()) {
    const Scored scored = forward(model, batches[i], temperature);
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
    const Scored scored = forward(model_, batches[i], temperature);
    const at::Tensor d_logp = at::zeros_like(scored.logp), d_entropy = at::zeros_like(scored.entropy);
    take(i, {batches[i].row, floats(scored.logp), floats(scored.entropy), floats(d_logp), floats(d_entropy)});
  });
}

namespace {

struct Outcome {
  std::vector<float> logp;
  at::Tensor gradient;
};

// The mean log-probability and its gradient, in one micro-batch.
Outcome outcome_of(const Transformer& model, std::span<const PackedGroup> groups, double temperature, bool shared) {
  const Transformer replica = model.replica();
  int64_t rows = 0;
  for (const PackedGroup& g : groups)
    for (const PackedReply& r : g.replies) rows = std::max(rows, r.first_row + static_cast<int64_t>(r.tokens.size()));
  Outcome out{std::vector<float>(rows), {}};
  for (const MicroBatch& batch : pack(groups, {.token_budget = INT64_MAX / 2, .shared_prefix = shared})) {
    const Scored scored = forward(replica, batch, temperature);
    for (size_t k = 0; k < batch.row.size(); ++k) out.logp[batch.row[k]] = floats(scored.logp.detach())[k];
    scored.logp.mean().backward();
  }
  out.gradient = replica.flat_gradient();
  return out;
}

}  // namespace

void verify_packing(const Transformer& model, std::span<const PackedGroup> groups, double temperature) {
  constexpr double kLogp = 1e-3, kGradient = 1e-3;   // f32: about 1e-5 is seen
  const Outcome shared = outcome_of(model, groups, temperature, true), repeated = outcome_of(model, groups, temperature, false);
  double logp = 0;
  for (size_t i = 0; i < shared.logp.size(); ++i) logp = std::max(logp, std::abs(double{shared.logp[i]} - repeated.logp[i]));
  const double gradient = (shared.gradient - repeated.gradient).norm().item<double>() / std::max(1e-12, repeated.gradient.norm().item<double>());
  if (logp <= kLogp && gradient <= kGradient) return;
  throw RunError(fmt::format("the shared-prefix forward differs from the repeated one: log-probabilities by up to {:.2g} (allowed {:.0e}), the gradient by {:.2g} of "
                             "its norm (allowed {:.0e}); set trainer.shared_prefix: false and report this", logp, kLogp, gradient, kGradient));
}

}  // namespace trimtab
