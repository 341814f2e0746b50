#include "policies/language/ops/attention_trie.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows [first, first + length) as ATen's flash attention wants them: [1, heads, rows, D], a view.
at::Tensor heads_first(const at::Tensor& x, int64_t first, int64_t length) {
  return x.narrow(0, first, length).transpose(0, 1).unsqueeze(0);
}
at::Tensor rows_first(const at::Tensor& x) { return x.squeeze(0).transpose(0, 1); }

// Softmax over two disjoint sets of keys from the softmaxes over each: out and lse [rows, H, D], [rows, H] are updated.
void merge(at::Tensor out, at::Tensor lse, const at::Tensor& other, const at::Tensor& other_lse) {
  const at::Tensor merged = at::logaddexp(lse, other_lse);
  out.mul_((lse - merged).exp_().unsqueeze(-1)).addcmul_(other, (other_lse - merged).exp_().unsqueeze(-1));
  lse.copy_(merged);
}

struct Piece {
  int64_t query, num_queries, key, num_keys;
  bool causal;
};

// What must be computed: own rows first, then the slice of descendants.
template <class Visit>
void for_each_piece(const Trie& trie, const Visit& visit) {
  for (const Trie::Segment& s : trie.segments) {
    if (s.length == 0) continue;
    visit(Piece{s.first, s.length, s.first, s.length, true});
    const int64_t below = s.first + s.length;
    if (s.end > below) visit(Piece{below, s.end - below, s.first, s.length, false});
  }
}

// The trie as a tensor [segments, 2] of (parent, length), the form in which autograd keeps it.
at::Tensor layout_of(const Trie& trie) {
  at::Tensor layout = at::empty({static_cast<int64_t>(trie.segments.size()), 2}, at::kLong);
  int64_t* x = layout.data_ptr<int64_t>();
  for (const Trie::Segment& s : trie.segments) *x++ = s.parent, *x++ = s.length;
  return layout;
}
Trie trie_of(const at::Tensor& layout) {
  Trie trie;
  const int64_t* x = layout.data_ptr<int64_t>();
  for (int64_t i = 0; i < layout.size(0); ++i) trie.add(x[2 * i], x[2 * i + 1]);
  return trie;
}

struct AttentionTrie : torch::autograd::Function<AttentionTrie> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& layout, double scale) {
    const Trie trie = trie_of(layout);
    at::Tensor out = at::zeros_like(q, at::MemoryFormat::Contiguous);
    at::Tensor lse = at::full({q.size(0), q.size(1)}, -INFINITY, q.options());
    for_each_piece(trie, [&](const Piece& p) {
      const auto [o, l] = at::_scaled_dot_product_flash_attention_for_cpu(
          heads_first(q, p.query, p.num_queries), heads_first(k, p.key, p.num_keys), heads_first(v, p.key, p.num_keys), 0.0, p.causal,
          {}, scale);
      const at::Tensor part_lse = rows_first(l);
      merge(out.narrow(0, p.query, p.num_queries), lse.narrow(0, p.query, p.num_queries), rows_first(o), part_lse);
    });
    ctx->save_for_backward({q, k, v, out, lse, layout});
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const Trie trie = trie_of(saved[5]);
    const double scale = ctx->saved_data["scale"].toDouble();
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor dq = at::zeros_like(q, at::MemoryFormat::Contiguous), dk = at::zeros_like(k, at::MemoryFormat::Contiguous),
               dv = at::zeros_like(v, at::MemoryFormat::Contiguous);
    for_each_piece(trie, [&](const Piece& p) {
      const auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          heads_first(grad, p.query, p.num_queries), heads_first(q, p.query, p.num_queries), heads_first(k, p.key, p.num_keys),
          heads_first(v, p.key, p.num_keys), heads_first(out, p.query, p.num_queries), heads_first(lse, p.query, p.num_queries), 0.0,
          p.causal, {}, scale);
      dq.narrow(0, p.query, p.num_queries).add_(rows_first(gq));
      dk.narrow(0, p.key, p.num_keys).add_(rows_first(gk));
      dv.narrow(0, p.key, p.num_keys).add_(rows_first(gv));
    });
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

double scale_of(const at::Tensor& q, double scale) { return scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(q.size(2))); }

}  // namespace

at::Tensor attention_trie(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale) {
  TT_CHECK_EQ(q.size(0), trie.num_rows);
  TT_CHECK_EQ(k.size(0), trie.num_rows);
  TT_CHECK_EQ(q.size(1) % k.size(1), 0);
  return AttentionTrie::apply(q, k, v, layout_of(trie), scale_of(q, scale));
}

at::Tensor attention_trie_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Trie& trie, double scale) {
  const int64_t rows = trie.num_rows, group = q.size(1) / k.size(1);
  at::Tensor mask = at::full({rows, rows}, -INFINITY, q.options());
  for (const Trie::Segment& s : trie.segments) {
    mask.slice(0, s.first + s.length, s.end).slice(1, s.first, s.first + s.length).zero_();
    at::Tensor own = mask.slice(0, s.first, s.first + s.length).slice(1, s.first, s.first + s.length);
    own.copy_(at::full_like(own, -INFINITY).triu(1));
  }
  const at::Tensor scores = at::einsum("qhd,khd->hqk", {q, k.repeat_interleave(group, 1)}) * scale_of(q, scale) + mask;
  return at::einsum("hqk,khd->qhd", {scores.softmax(-1), v.repeat_interleave(group, 1)});
}

}  // namespace trimtab
