#include <cmath>

#include "core/error.h"
#include "policies/language/floats.h"
#include "trainers/language/learner.h"

namespace trimtab {
namespace {

std::string first_not_finite(const Transformer& model) {
  for (const auto& [name, parameter] : model.trainable_parameters()) {
    if (!parameter.grad().isfinite().all().item<bool>()) return name;
  }
  return "?";
}

}  // namespace

FlatOptimiser::FlatOptimiser(const Transformer& model, const AdamOptions& options)
    : model_(model), adam_(model.trainable().numel(), options) {}

double FlatOptimiser::step(double lr, double max_grad_norm) {
  const std::span<float> gradient = floats(model_.flat_gradient());
  double squares = 0;
  for (const float g : gradient) squares += double{g} * g;
  const double norm = std::sqrt(squares);
  if (!std::isfinite(norm))
    throw RunError(fmt::format("the gradient of '{}' is not finite; lower trainer.lr, or look at the batch in the run's folder",
                               first_not_finite(model_)));
  const double scale = max_grad_norm > 0 && norm > max_grad_norm ? max_grad_norm / norm : 1;
  adam_.step(floats(model_.trainable()), gradient, scale, lr);
  model_.flat_gradient().zero_();
  return norm;
}

void FlatOptimiser::save(Checkpoint& checkpoint) const {
  const std::vector<int64_t> shape = {model_.trainable().numel()};
  checkpoint.state.tensors["adam.m"] = Tensor::f32(shape, adam_.first_moment());
  checkpoint.state.tensors["adam.v"] = Tensor::f32(shape, adam_.second_moment());
  checkpoint.counters["adam_steps"] = adam_.steps();
}

void FlatOptimiser::load(const Checkpoint& checkpoint) {
  const auto take = [&](const char* name, std::span<float> into) {
    const std::span<const float> from = checkpoint.state.at(name).as_f32();
    if (from.size() != into.size())
      throw CheckpointError(fmt::format("'{}' has {} numbers, the model has {}", name, from.size(), into.size()));
    std::copy(from.begin(), from.end(), into.begin());
  };
  take("adam.m", adam_.first_moment());
  take("adam.v", adam_.second_moment());
  adam_.set_steps(checkpoint.counters.at("adam_steps").get<int64_t>());
}

}  // namespace trimtab
