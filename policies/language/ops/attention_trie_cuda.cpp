#include "policies/language/ops/attention_trie_cuda.h"

#include "core/error.h"

#ifdef TRIMTAB_CUDA
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "kernels/trie_attention/trie_attention_cuda.h"
#endif

namespace trimtab {

#ifndef TRIMTAB_CUDA

at::Tensor attention_trie_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, const Trie&, double) {
  throw ConfigError("this build has no CUDA kernels; configure it with -DTRIMTAB_CUDA=ON");
}

#else

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void require(cudaError_t status) {
  if (status != cudaSuccess) throw RunError(fmt::format("the CUDA kernel of attention_trie failed: {}", cudaGetErrorString(status)));
}

// [rows] i32 on q's device: one behind the last row that sees each.
at::Tensor ends_of(const Trie& trie, const at::Device& device) {
  at::Tensor end = at::empty({trie.num_rows}, at::kInt);
  for (const Trie::Segment& s : trie.segments) std::fill_n(end.mutable_data_ptr<int32_t>() + s.first, s.length, static_cast<int32_t>(s.end));
  return end.to(device);
}

template <class T>
const T* at_row(const at::Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
TrieAttentionCuda<T> arguments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& end, double scale, const at::Tensor& out, const at::Tensor& lse) {
  TrieAttentionCuda<T> a;
  a.rows = q.size(0), a.end = end.const_data_ptr<int32_t>(), a.heads = q.size(1), a.kv_heads = k.size(1), a.head_size = q.size(2), a.scale = static_cast<float>(scale);
  a.q = at_row<T>(q), a.k = at_row<T>(k), a.v = at_row<T>(v), a.q_stride = q.stride(0), a.k_stride = k.stride(0), a.v_stride = v.stride(0);
  a.out = static_cast<T*>(out.data_ptr()), a.out_stride = out.stride(0), a.lse = lse.data_ptr<float>();
  return a;
}

// f(a number of the tensor's format).
template <class F>
void with_format(const at::Tensor& t, const F& f) {
  t.scalar_type() == at::kHalf ? f(Float16{}) : f(Bfloat16{});
}

struct AttentionTrieCuda : torch::autograd::Function<AttentionTrieCuda> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& end, double scale) {
    const c10::cuda::CUDAGuard guard(q.device());
    const at::Tensor out = at::empty(q.sizes(), q.options()), lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
    with_format(q, [&](auto format) {
      require(trie_attention_forward_cuda(arguments<decltype(format)>(q, k, v, end, scale, out, lse), c10::cuda::getCurrentCUDAStream()));
    });
    ctx->save_for_backward({q, k, v, end, out, lse});
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &lse = saved[5], d_out = grads[0].contiguous();
    const c10::cuda::CUDAGuard guard(q.device());
    const at::Tensor d_q = at::empty(q.sizes(), q.options()), d_k = at::empty(k.sizes(), k.options()), d_v = at::empty(v.sizes(), v.options()), delta = at::empty_like(lse);
    with_format(q, [&](auto format) {
      using T = decltype(format);
      TrieAttentionGradientCuda<T> g;
      g.forward = arguments<T>(q, k, v, saved[3], ctx->saved_data["scale"].toDouble(), saved[4], lse);
      g.d_out = at_row<T>(d_out), g.d_out_stride = d_out.stride(0), g.delta = delta.data_ptr<float>();
      g.d_q = static_cast<T*>(d_q.data_ptr()), g.d_k = static_cast<T*>(d_k.data_ptr()), g.d_v = static_cast<T*>(d_v.data_ptr());
      g.d_q_stride = d_q.stride(0), g.d_k_stride = d_k.stride(0), g.d_v_stride = d_v.stride(0);
      require(trie_attention_backward_cuda(g, c10::cuda::getCurrentCUDAStream()));
    });
    return {d_q, d_k, d_v, at::Tensor(), at::Tensor()};
  }
};

// Heads behind one another in a row, at addresses and strides that the kernel reads.
at::Tensor readable(const at::Tensor& x) {
  const bool fits = x.stride(2) == 1 && x.stride(1) == x.size(2) && x.stride(0) % 8 == 0 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  return fits ? x : x.contiguous();
}

}  // namespace

at::Tensor attention_trie_cuda(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale) {
  if (q.scalar_type() != at::kHalf && q.scalar_type() != at::kBFloat16)
    throw ConfigError("attention on CUDA takes 16-bit formats; set run.precision to bf16");
  if (q.size(2) % 8 != 0 || q.size(2) > 128)
    throw ConfigError(fmt::format("attention on CUDA takes heads of 8, 16, ... 128 numbers, and these have {}", q.size(2)));
  return AttentionTrieCuda::apply(readable(q), readable(k), readable(v), ends_of(trie, q.device()), scale);
}

#endif

}  // namespace trimtab
