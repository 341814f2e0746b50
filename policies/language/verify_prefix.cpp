#include "policies/language/verify_prefix.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "policies/language/ops/linear_logprob.h"

namespace trimtab {
namespace {

struct Scored {
  at::Tensor logp, entropy, gradient;   // [N], [N], [num_trainable]
};

// Adds a forward's gradient to the model's; `at` are the places in `to` of what is scored.
void score(const Transformer& model, const at::Tensor& tokens, const Trie& trie, const at::Tensor& predictors, const at::Tensor& at,
           const PrefixBatch& batch, Scored& to) {
  const at::Device device = model.flat().device();
  const at::Tensor hidden = model.hidden(tokens, trie).index_select(0, predictors.to(device));
  const at::Tensor targets = batch.tokens.index_select(0, batch.rows.index_select(0, at)).to(device);
  const auto [logp, entropy] = linear_logprob(hidden, model.head(), targets, {.temperature = batch.temperature});
  std::vector<at::Tensor> roots = {logp}, grads = {batch.d_logp.index_select(0, at).to(logp.options())};
  if (batch.d_entropy.defined()) roots.push_back(entropy), grads.push_back(batch.d_entropy.index_select(0, at).to(entropy.options()));
  torch::autograd::backward(roots, grads);
  to.logp.index_copy_(0, at, logp.detach().to(to.logp.options())), to.entropy.index_copy_(0, at, entropy.detach().to(to.entropy.options()));
}

template <class F>
Scored scored(const Transformer& model, int64_t count, const F& f) {
  model.flat_gradient().zero_();
  const at::ScalarType wide = model.flat().scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  Scored to{at::zeros({count}, wide), at::zeros({count}, wide), {}};
  f(to);
  to.gradient = model.flat_gradient().to(to.logp.options(), false, true);
  return to;
}

Scored shared(const Transformer& model, const PrefixBatch& batch) {
  const int64_t count = batch.rows.size(0);
  const at::Tensor predictors = at::tensor(batch.trie.predictors(), at::kLong).index_select(0, batch.rows);
  TT_CHECK(count == 0 || predictors.min().item<int64_t>() >= 0, "a scored token has nothing before it");
  return scored(model, count, [&](Scored& to) { score(model, batch.tokens, batch.trie, predictors, at::arange(count), batch, to); });
}

// Every root-to-leaf sequence alone; a row of several of them is scored in the first.
Scored repeated(const Transformer& model, const PrefixBatch& batch) {
  std::vector<int64_t> place(batch.trie.num_rows, -1);   // of a row among the scored that are still to do
  for (int64_t i = 0; i < batch.rows.size(0); ++i) place[batch.rows[i].item<int64_t>()] = i;
  return scored(model, batch.rows.size(0), [&](Scored& to) {
    for (size_t s = 0; s < batch.trie.segments.size(); ++s) {
      const std::vector<int64_t> path = batch.trie.path_rows(static_cast<int64_t>(s));
      if (batch.trie.segments[s].end > batch.trie.segments[s].first + batch.trie.segments[s].length) continue;   // not a leaf
      std::vector<int64_t> predictors, at;
      for (size_t k = 1; k < path.size(); ++k)
        if (place[path[k]] >= 0) predictors.push_back(static_cast<int64_t>(k) - 1), at.push_back(std::exchange(place[path[k]], -1));
      if (at.empty()) continue;
      Trie alone;
      alone.add(-1, static_cast<int64_t>(path.size()));
      score(model, batch.tokens.index_select(0, at::tensor(path, at::kLong)), alone, at::tensor(predictors, at::kLong), at::tensor(at, at::kLong),
            batch, to);
    }
  });
}

double largest(const at::Tensor& x) { return x.numel() == 0 ? 0 : x.abs().max().item<double>(); }

// The parameter that holds entry `index` of the trainable buffer.
std::string parameter_at(const Transformer& model, int64_t index) {
  for (const auto& [name, p] : model.trainable_parameters())
    if (index >= p.storage_offset() && index < p.storage_offset() + p.numel()) return name;
  return "?";
}

}  // namespace

double verify_shared_prefix(const Transformer& model, const PrefixBatch& batch, double tolerance) {
  const at::ScalarType format = model.flat().scalar_type();
  if (tolerance <= 0) tolerance = format == at::kDouble ? 1e-9 : format == at::kFloat ? 1e-3 : 0.1;
  const at::Tensor before = model.flat_gradient().clone();
  const Scored ours = shared(model, batch), theirs = repeated(model, batch);
  model.flat_gradient().copy_(before);
  const at::Tensor difference = (ours.gradient - theirs.gradient).abs();
  const double scale = largest(theirs.gradient), logp = largest(ours.logp - theirs.logp), entropy = largest(ours.entropy - theirs.entropy);
  const double gradient = scale > 0 ? largest(difference) / scale : largest(difference);
  const double worst = std::max({logp, entropy, gradient});
  if (!(worst <= tolerance)) {   // NaN is above every tolerance
    const std::string what = gradient == worst ? "the gradient of " + parameter_at(model, difference.argmax().item<int64_t>())
                             : logp == worst   ? std::string("log-probabilities")
                                               : std::string("entropies");
    throw RunError(fmt::format("the shared-prefix forward differs from the repeated one by {:.3g} in {} (tolerance {:.3g}): this batch would be "
                               "trained on wrongly; please report it with the batch and the model's config.json", worst, what, tolerance));
  }
  return worst;
}

}  // namespace trimtab
