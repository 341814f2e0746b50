// Activation checkpointing (Chen et al., arXiv 1604.06174): of a piece of a network only its input is kept, and the backward runs the
// piece again before it goes through it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace trimtab {

using Piece = std::function<at::Tensor(const at::Tensor&)>;

// f(x), differentiable once in x and in the leaves that f reads by capture, whose gradients its backward adds up as if f(x) had been
// called. f must give the same again, and what it captures must live until the backward. Where x needs no gradient (all that comes
// before is frozen) one is computed all the same, because autograd would otherwise pass the piece over.
at::Tensor recompute(Piece f, const at::Tensor& x);

}  // namespace trimtab
