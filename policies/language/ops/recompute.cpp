#include "policies/language/ops/recompute.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The form in which a context keeps a function.
struct KeptPiece : torch::CustomClassHolder {
  explicit KeptPiece(Piece f) : run(std::move(f)) {}
  Piece run;
};

struct Recompute : torch::autograd::Function<Recompute> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const c10::intrusive_ptr<KeptPiece>& piece) {
    ctx->save_for_backward({x});
    ctx->saved_data["piece"] = c10::IValue::make_capsule(piece);
    return piece->run(x);   // without a graph: a Function's forward runs with gradients off
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto piece = ctx->saved_data["piece"].toCapsule();
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    at::Tensor y;
    {
      const at::AutoGradMode with_graph(true);
      y = static_cast<KeptPiece&>(*piece).run(x);
    }
    torch::autograd::backward({y}, {grads[0]});   // captured leaves get theirs here
    return {x.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor recompute(Piece f, const at::Tensor& x) {
  if (!at::GradMode::is_enabled()) return f(x);
  const at::Tensor from = x.requires_grad() ? x : x.detach().requires_grad_(true);
  return Recompute::apply(from, c10::make_intrusive<KeptPiece>(std::move(f)));
}

}  // namespace trimtab
