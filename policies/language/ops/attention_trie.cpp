#include "policies/language/ops/attention_trie.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <span>
#include <vector>

#include "core/error.h"
#include "kernels/rotary/rotary.h"
#include "kernels/trie_attention/trie_attention.h"
#include "policies/language/ops/attention_trie_cuda.h"
#include "policies/language/ops/composed.h"
#include "policies/language/ops/rows.h"

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

static_assert(sizeof(AttentionSegment) == 4 * sizeof(int64_t));

// The trie as a tensor [segments, 4] of AttentionSegment, the form in which autograd keeps it.
at::Tensor layout_of(const Trie& trie) {
  at::Tensor layout = at::empty({static_cast<int64_t>(trie.segments.size()), 4}, at::kLong);
  int64_t* x = layout.mutable_data_ptr<int64_t>();
  for (const Trie::Segment& s : trie.segments) *x++ = s.first, *x++ = s.length, *x++ = s.end, *x++ = s.position;
  return layout;
}
std::span<const AttentionSegment> segments_of(const at::Tensor& layout) {
  return {reinterpret_cast<const AttentionSegment*>(layout.const_data_ptr<int64_t>()), static_cast<size_t>(layout.size(0))};
}

// f(segments of one root's subtree, key head) for all, shared out to threads.
template <class F>
void for_each_subtree(std::span<const AttentionSegment> segments, int64_t kv_heads, const F& f) {
  std::vector<size_t> roots;
  for (size_t i = 0, rows = 0; i < segments.size(); ++i)
    if (i == 0 || segments[i].first >= static_cast<int64_t>(rows)) roots.push_back(i), rows = segments[i].end;
  roots.push_back(segments.size());
  at::parallel_for(0, (static_cast<int64_t>(roots.size()) - 1) * kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const size_t root = item / kv_heads;
      f(segments.subspan(roots[root], roots[root + 1] - roots[root]), item % kv_heads);
    }
  });
}

// Heads [first, ...) of x [T, heads, D] or [T, heads].
template <class T, class Data>
HeadRows<Data> heads_from(const at::Tensor& x, int64_t first) {
  return {const_cast<Data*>(x.const_data_ptr<T>()) + first * x.stride(1), x.stride(0), x.stride(1)};
}

struct Attended {
  at::Tensor out, lse;   // [T, H, D], [T, H]
};

Attended attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::span<const AttentionSegment> segments, double scale) {
  const int64_t kv_heads = k.size(1), group = q.size(1) / kv_heads, size = q.size(2);
  Attended to{at::empty(q.sizes(), q.options()), at::empty({q.size(0), q.size(1)}, q.options())};
  const at::Tensor sum = at::empty_like(to.lse);
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "attention_trie", [&] {
    for_each_subtree(segments, kv_heads, [&](std::span<const AttentionSegment> subtree, int64_t head) {
      const int64_t first = head * group;
      trie_attention_forward(TrieAttentionForward<scalar_t>{
          subtree.data(), static_cast<int64_t>(subtree.size()), group, size, scale, heads_from<scalar_t, const scalar_t>(q, first),
          heads_from<scalar_t, const scalar_t>(k, head).data, k.stride(0), heads_from<scalar_t, const scalar_t>(v, head).data, v.stride(0),
          heads_from<scalar_t, scalar_t>(to.out, first), heads_from<scalar_t, scalar_t>(to.lse, first),
          heads_from<scalar_t, scalar_t>(sum, first)});
    });
  });
  return to;
}

struct AttentionInputs {
  at::Tensor q, k, v;
};

// to: where the gradients of q, k and v go.
void attend_gradient(const AttentionInputs& x, const Attended& y, const at::Tensor& d_out, std::span<const AttentionSegment> segments, double scale,
                     const AttentionInputs& to) {
  const int64_t kv_heads = x.k.size(1), group = x.q.size(1) / kv_heads, size = x.q.size(2);
  const at::Tensor delta = at::empty_like(y.lse);
  AT_DISPATCH_FLOATING_TYPES(x.q.scalar_type(), "attention_trie_gradient", [&] {
    const auto read = [](const at::Tensor& t, int64_t first) { return heads_from<scalar_t, const scalar_t>(t, first); };
    const auto write = [](const at::Tensor& t, int64_t first) { return heads_from<scalar_t, scalar_t>(t, first); };
    for_each_subtree(segments, kv_heads, [&](std::span<const AttentionSegment> subtree, int64_t head) {
      const int64_t first = head * group;
      trie_attention_backward(TrieAttentionBackward<scalar_t>{
          subtree.data(), static_cast<int64_t>(subtree.size()), group, size, scale, read(x.q, first), read(y.out, first), read(y.lse, first),
          read(d_out, first), read(x.k, head).data, x.k.stride(0), read(x.v, head).data, x.v.stride(0), write(delta, first),
          write(to.q, first), write(to.k, head).data, to.k.stride(0), write(to.v, head).data, to.v.stride(0)});
    });
  });
}

at::Tensor packed_heads(const at::Tensor& x) { return x.stride(2) == 1 || x.numel() == 0 ? x : x.contiguous(); }

struct AttentionTrie : torch::autograd::Function<AttentionTrie> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& layout, double scale) {
    const Attended y = attend(q, k, v, segments_of(layout), scale);
    ctx->save_for_backward({q, k, v, y.out, y.lse, layout});
    ctx->saved_data["scale"] = scale;
    return y.out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const AttentionInputs x{saved[0], saved[1], saved[2]};
    const AttentionInputs to{at::empty(x.q.sizes(), x.q.options()), at::empty(x.k.sizes(), x.k.options()), at::empty(x.v.sizes(), x.v.options())};
    attend_gradient(x, {saved[3], saved[4]}, grads[0].contiguous(), segments_of(saved[5]), ctx->saved_data["scale"].toDouble(), to);
    return {to.q, to.k, to.v, at::Tensor(), at::Tensor()};
  }
};

// Turns the q and k heads of qkv [T, all heads, D] in place.
void turn(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, int64_t heads, int sign) {
  const int64_t size = qkv.size(2), stride = qkv.stride(0);
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "rotary", [&] {
    for_row_blocks(qkv.size(0), [&](int64_t, int64_t first, int64_t rows) {
      rotary(Rotary<scalar_t>{rows, heads, size, qkv.mutable_data_ptr<scalar_t>() + first * stride, stride,
                              cosine.const_data_ptr<scalar_t>() + first * size / 2, sine.const_data_ptr<scalar_t>() + first * size / 2,
                              static_cast<scalar_t>(sign)});
    });
  });
}

struct RotaryAttentionTrie : torch::autograd::Function<RotaryAttentionTrie> {
  static AttentionInputs split(const at::Tensor& qkv, int64_t heads, int64_t kv_heads) {
    return {qkv.narrow(1, 0, heads), qkv.narrow(1, heads, kv_heads), qkv.narrow(1, heads + kv_heads, kv_heads)};
  }

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine,
                            const at::Tensor& layout, int64_t heads, int64_t kv_heads, double scale) {
    const at::Tensor x = qkv.view({qkv.size(0), heads + 2 * kv_heads, -1});
    turn(x, cosine, sine, heads + kv_heads, 1);
    qkv.unsafeGetTensorImpl()->bump_version();   // whoever keeps qkv for a backward of its own shall hear of it
    const AttentionInputs in = split(x, heads, kv_heads);
    const Attended y = attend(in.q, in.k, in.v, segments_of(layout), scale);
    ctx->save_for_backward({qkv, cosine, sine, y.out, y.lse, layout});
    ctx->saved_data["heads"] = heads, ctx->saved_data["kv_heads"] = kv_heads, ctx->saved_data["scale"] = scale;
    return y.out.view({qkv.size(0), -1});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const int64_t heads = ctx->saved_data["heads"].toInt(), kv_heads = ctx->saved_data["kv_heads"].toInt();
    const at::Tensor x = saved[0].view({saved[0].size(0), heads + 2 * kv_heads, -1}), dx = at::empty(x.sizes(), x.options());
    attend_gradient(split(x, heads, kv_heads), {saved[3], saved[4]}, grads[0].contiguous().view(saved[3].sizes()), segments_of(saved[5]),
                    ctx->saved_data["scale"].toDouble(), split(dx, heads, kv_heads));
    turn(dx, saved[1], saved[2], heads + kv_heads, -1);
    return {dx.view(saved[0].sizes()), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

double scale_of(int64_t head_size, double scale) { return scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(head_size)); }

}  // namespace

at::Tensor attention_trie(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale) {
  TT_CHECK_EQ(q.size(0), trie.num_rows);
  TT_CHECK_EQ(k.size(0), trie.num_rows);
  TT_CHECK_EQ(q.size(1) % k.size(1), 0);
  if (q.is_cuda()) return attention_trie_cuda(q, k, v, trie, scale_of(q.size(2), scale));
  if (!served_by_kernels(q))   // 16 bits on the CPU: by way of f32
    return attention_trie(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), trie, scale).to(q.scalar_type());
  return AttentionTrie::apply(packed_heads(q), packed_heads(k), packed_heads(v), layout_of(trie), scale_of(q.size(2), scale));
}

at::Tensor rotary_attention_trie(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie,
                                 const RotaryAttention& options) {
  const int64_t all_heads = options.heads + 2 * options.kv_heads;
  TT_CHECK(qkv.is_contiguous() && cosine.is_contiguous() && sine.is_contiguous(), "rows must lie behind one another");
  TT_CHECK_EQ(qkv.size(0), trie.num_rows);
  TT_CHECK_EQ(qkv.size(1) % all_heads, 0);
  TT_CHECK_EQ(options.heads % options.kv_heads, 0);
  TT_CHECK_EQ(cosine.size(1) * 2, qkv.size(1) / all_heads);
  if (!served_by_kernels(qkv)) {
    const at::Tensor x = qkv.view({qkv.size(0), all_heads, -1});
    const at::Tensor q = composed_rotary(x.narrow(1, 0, options.heads), cosine, sine), k = composed_rotary(x.narrow(1, options.heads, options.kv_heads), cosine, sine);
    return attention_trie(q, k, x.narrow(1, options.heads + options.kv_heads, options.kv_heads), trie, options.scale).reshape({qkv.size(0), -1});
  }
  return RotaryAttentionTrie::apply(qkv, cosine, sine, layout_of(trie), options.heads, options.kv_heads,
                                    scale_of(qkv.size(1) / all_heads, options.scale));
}

at::Tensor attention_trie_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale) {
  const int64_t rows = trie.num_rows, group = q.size(1) / k.size(1);
  at::Tensor mask = at::full({rows, rows}, -INFINITY, q.options());
  for (const Trie::Segment& s : trie.segments) {
    mask.slice(0, s.first + s.length, s.end).slice(1, s.first, s.first + s.length).zero_();
    at::Tensor own = mask.slice(0, s.first, s.first + s.length).slice(1, s.first, s.first + s.length);
    own.copy_(at::full_like(own, -INFINITY).triu(1));
  }
  const at::Tensor scores = at::einsum("qhd,khd->hqk", {q, k.repeat_interleave(group, 1)}) * scale_of(q.size(2), scale) + mask;
  return at::einsum("hqk,khd->qhd", {scores.softmax(-1), v.repeat_interleave(group, 1)});
}

}  // namespace trimtab
