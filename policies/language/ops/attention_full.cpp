#include "policies/language/ops/attention_full.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "policies/language/ops/composed.h"

namespace trimtab {
namespace {

// Roots behind one another that are computed at once: `count` of `length` rows, alone (no segments below them) unless count is 1.
struct Run {
  size_t first_segment = 0, segments = 0;
  int64_t first_row = 0, count = 1, length = 0;
};

std::vector<Run> runs_of(const Trie& trie) {
  std::vector<Run> out;
  for (size_t i = 0; i < trie.segments.size();) {
    const Trie::Segment& root = trie.segments[i];
    size_t end = i + 1;
    while (end < trie.segments.size() && trie.segments[end].parent >= 0) ++end;
    Run run{i, end - i, root.first, 1, root.end - root.first};
    if (run.length > 0 && run.segments == 1 && !out.empty() && out.back().segments == 1 && out.back().length == run.length) {
      ++out.back().count;
    } else if (run.length > 0) {
      out.push_back(run);
    }
    i = end;
  }
  return out;
}

// [rows, rows] of one root's subtree: 0 where the row sees the column, -infinity elsewhere.
at::Tensor mask_of(const Trie& trie, const Run& run, const at::TensorOptions& like) {
  at::Tensor mask = at::full({run.length, run.length}, -INFINITY, at::kFloat);
  float* x = mask.mutable_data_ptr<float>();
  for (size_t i = run.first_segment; i < run.first_segment + run.segments; ++i) {
    const Trie::Segment& s = trie.segments[i];   // seen by its own rows and by those of its descendants, right behind them
    for (int64_t row = s.first - run.first_row; row < s.end - run.first_row; ++row)
      std::fill_n(x + row * run.length + s.first - run.first_row, s.length, 0.0f);
  }
  return mask.to(like);
}

// q [N, L, H, D], k and v [N, L, K, D] -> [N, L, H, D]; head h reads key head h / (H / K).
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, const at::Tensor& mask) {
  const int64_t n = q.size(0), length = q.size(1), heads = q.size(2), kv_heads = k.size(2), size = q.size(3), group = heads / kv_heads;
  const at::Tensor grouped = q.transpose(1, 2).reshape({n * kv_heads, group * length, size});   // heads of a group over one another
  at::Tensor scores = at::bmm(grouped, k.permute({0, 2, 3, 1}).reshape({n * kv_heads, size, length})) * scale;
  if (mask.defined()) scores = scores + mask.repeat({group, 1});
  const at::Tensor mixed = at::bmm(at::softmax(scores, -1), v.transpose(1, 2).reshape({n * kv_heads, length, size}));
  return mixed.view({n, heads, length, size}).transpose(1, 2);
}

}  // namespace

at::Tensor rotary_attention_full(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie,
                                 const RotaryAttention& options) {
  const int64_t heads = options.heads, kv_heads = options.kv_heads, all_heads = heads + 2 * kv_heads;
  TT_CHECK_EQ(qkv.size(0), trie.num_rows);
  TT_CHECK_EQ(qkv.size(1) % all_heads, 0);
  TT_CHECK_EQ(heads % kv_heads, 0);
  const at::Tensor x = qkv.view({qkv.size(0), all_heads, -1});
  const int64_t size = x.size(2);
  const at::Tensor q = composed_rotary(x.narrow(1, 0, heads), cosine, sine), k = composed_rotary(x.narrow(1, heads, kv_heads), cosine, sine);
  const at::Tensor v = x.narrow(1, heads + kv_heads, kv_heads);
  const double scale = options.scale > 0 ? options.scale : 1 / std::sqrt(static_cast<double>(size));
  std::vector<at::Tensor> out = {at::zeros({0, heads, size}, x.options())};
  for (const Run& run : runs_of(trie)) {
    const int64_t rows = run.count * run.length;
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, run.first_row, rows).unflatten(0, {run.count, run.length}); };
    const at::Tensor mask = run.segments > 1 ? mask_of(trie, run, x.options()) : at::Tensor();
    out.push_back(attend(part(q), part(k), part(v), scale, mask).reshape({rows, heads, size}));
  }
  return at::cat(out, 0).view({qkv.size(0), -1});
}

}  // namespace trimtab
