#include "policies/language/ops/attention_full.h"

#include <cmath>
#include <vector>

#include "core/error.h"
#include "policies/language/ops/composed.h"

namespace trimtab {
namespace {

// q [L, H, D], k and v [L, K, D] -> [L, H, D]; head h reads key head h / (H / K).
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const int64_t length = q.size(0), heads = q.size(1), kv_heads = k.size(1), size = q.size(2);
  const at::Tensor grouped = q.transpose(0, 1).reshape({kv_heads, heads / kv_heads * length, size});   // heads of a group over one another
  const at::Tensor p = at::softmax(at::bmm(grouped, k.permute({1, 2, 0})) * scale, -1);
  return at::bmm(p, v.transpose(0, 1)).view({heads, length, size}).transpose(0, 1);
}

}  // namespace

at::Tensor rotary_attention_full(const at::Tensor& qkv, const at::Tensor& cosine, const at::Tensor& sine, const Trie& trie,
                                 const RotaryAttention& options) {
  const int64_t heads = options.heads, kv_heads = options.kv_heads, all_heads = heads + 2 * kv_heads;
  TT_CHECK_EQ(qkv.size(0), trie.num_rows);
  TT_CHECK_EQ(qkv.size(1) % all_heads, 0);
  TT_CHECK_EQ(heads % kv_heads, 0);
  const at::Tensor x = qkv.view({qkv.size(0), all_heads, -1});
  const at::Tensor q = composed_rotary(x.narrow(1, 0, heads), cosine, sine), k = composed_rotary(x.narrow(1, heads, kv_heads), cosine, sine);
  const at::Tensor v = x.narrow(1, heads + kv_heads, kv_heads);
  const double scale = options.scale > 0 ? options.scale : 1 / std::sqrt(static_cast<double>(x.size(2)));
  std::vector<at::Tensor> out = {at::zeros({0, heads, x.size(2)}, x.options())};
  for (const Trie::Segment& s : trie.segments) {
    TT_CHECK(s.parent < 0, "attention without a causal mask takes roots only: a prefix would see what comes after it");
    if (s.length > 0) out.push_back(attend(q.narrow(0, s.first, s.length), k.narrow(0, s.first, s.length), v.narrow(0, s.first, s.length), scale));
  }
  return at::cat(out, 0).view({qkv.size(0), -1});
}

}  // namespace trimtab
