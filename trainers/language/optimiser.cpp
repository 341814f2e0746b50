#include <cmath>

#include "core/error.h"
#include "policies/language/floats.h"
#include "trainers/language/learner.h"

namespace trimtab {
namespace {

// Name of the first parameter of which `part` holds a number that is not finite; empty when there is none.
template <class Part>
std::string first_not_finite(const Transformer& model, Part&& part) {
  for (const auto& [name, parameter] : model.trainable_parameters())
    if (!part(parameter).isfinite().all().template item<bool>()) return name;
  return "";
}

std::string what_is_not_finite(const Transformer& model, double loss) {
  if (const std::string name = first_not_finite(model, [](const at::Tensor& p) { return p.detach(); }); !name.empty()) return fmt::format("the weight '{}'", name);
  if (!std::isfinite(loss)) return "the loss";
  if (const std::string name = first_not_finite(model, [](const at::Tensor& p) { return p.grad(); }); !name.empty()) return fmt::format("the gradient of '{}'", name);
  return "the gradient's norm";
}

}  // namespace

FlatOptimiser::FlatOptimiser(const Transformer& model, const AdamOptions& options, const GuardBlock& guard, Ranks& ranks)
    : model_(model), ranks_(ranks), adam_(model.trainable().numel(), options, ranks), guard_(guard) {}

double FlatOptimiser::step(double lr, double max_grad_norm, double loss, const std::function<std::string()>& dump) {
  const std::span<float> gradient = floats(model_.flat_gradient());
  const double norm = std::sqrt(adam_.squares(gradient));
  const bool take = guard_.take(loss, norm, [&] {
    ranks_.gather_pieces(gradient);
    return fmt::format("{} is not finite; lower trainer.lr, or look at the batch{}", what_is_not_finite(model_, loss), ranks_.is_main() ? ": " + dump() : " that rank 0 has dumped");
  });
  if (take) {
    const double scale = max_grad_norm > 0 && norm > max_grad_norm ? max_grad_norm / norm : 1;
    adam_.step(floats(model_.trainable()), gradient, scale, lr);
  }
  model_.flat_gradient().zero_();
  return norm;
}

LanguageLearner::Metrics FlatOptimiser::with_guard(LanguageLearner::Metrics metrics) const {
  for (auto& count : guard_.metrics()) metrics.push_back(std::move(count));
  return metrics;
}

void FlatOptimiser::save(Checkpoint& checkpoint) {
  const std::vector<int64_t> shape = {model_.trainable().numel()};
  const ShardedAdam::Moments moments = adam_.moments();
  checkpoint.state.tensors["adam.m"] = Tensor::f32(shape, moments.first);
  checkpoint.state.tensors["adam.v"] = Tensor::f32(shape, moments.second);
  checkpoint.counters["adam_steps"] = adam_.steps();
  checkpoint.counters["guard"] = guard_.to_json();
}

void FlatOptimiser::load(const Checkpoint& checkpoint) {
  const auto saved = [&](const char* name) {
    const std::span<const float> from = checkpoint.state.at(name).as_f32();
    if (static_cast<int64_t>(from.size()) != model_.trainable().numel())
      throw CheckpointError(fmt::format("'{}' has {} numbers, the model has {}", name, from.size(), model_.trainable().numel()));
    return from;
  };
  adam_.restore(saved("adam.m"), saved("adam.v"), checkpoint.counters.at("adam_steps").get<int64_t>());
  if (checkpoint.counters.contains("guard")) guard_.restore(checkpoint.counters.at("guard"));
}

std::string dump(const std::filesystem::path& run_folder, std::span<const MicroBatch> batches) {
  if (run_folder.empty()) return "the run has no folder";
  TensorFile file;
  for (size_t i = 0; i < batches.size(); ++i) {
    const at::Tensor tokens = batches[i].tokens.contiguous();
    file.tensors[fmt::format("tokens.{:04}", i)] = Tensor::i64({tokens.numel()}, {tokens.data_ptr<int64_t>(), static_cast<size_t>(tokens.numel())});
  }
  const std::filesystem::path to = run_folder / "nonfinite.safetensors";
  write_safetensors(to, file);
  return to.string();
}

}  // namespace trimtab
