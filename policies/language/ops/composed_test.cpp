// The composed operations against the kernels' versions, in double, with gradients; and what 16 bits make of them.
#include "policies/language/ops/composed.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/random.h"
#include "core/test_support.h"
#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/norm_linear.h"
#include "policies/language/ops/swiglu_linear.h"

namespace trimtab {
namespace {

at::Tensor random(std::vector<int64_t> shape, Draws& draws) {
  at::Tensor x = at::empty(shape, at::kDouble);
  for (int64_t i = 0; i < x.numel(); ++i) x.data_ptr<double>()[i] = draws.normal();
  return x.requires_grad_();
}

void expect_equal(const at::Tensor& a, const at::Tensor& b, double tolerance) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>(), tolerance);
}

// Values and gradients of two functions of the same inputs, under one random weighting of what they return.
template <class F, class G>
void expect_same(const F& f, const G& g, const std::vector<at::Tensor>& inputs, Draws& draws, double tolerance = 1e-11) {
  const at::Tensor ours = f(), theirs = g(), weight = random(ours.sizes().vec(), draws).detach();
  expect_equal(ours, theirs, tolerance);
  const auto a = torch::autograd::grad({(ours * weight).sum()}, inputs), b = torch::autograd::grad({(theirs * weight).sum()}, inputs);
  for (size_t i = 0; i < inputs.size(); ++i) expect_equal(a[i], b[i], tolerance);
}

TEST(Composed, EqualsTheKernelsVersionsWithAllGradients) {
  Draws draws(test_seed(), Stream::kTest, 71);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = 1 + draws.below(9), width = 4 * (1 + draws.below(4)), inner = 1 + draws.below(12);
    const at::Tensor x = random({rows, width}, draws), weight = random({width}, draws);
    expect_same([&] { return composed_rms_norm(x, weight, 1e-5); }, [&] { return rms_norm_rows(x, weight, 1e-5); }, {x, weight}, draws);
    const at::Tensor both = random({5 * width}, draws).detach(), w1 = random({inner, width}, draws), w2 = random({3, width}, draws), b1 = random({inner}, draws), b2 = random({3}, draws);
    expect_same([&] { return composed_norm_linear(x, weight, 1e-5, {w1, w2}, {b1, b2}); }, [&] { return norm_linear(x, weight, 1e-5, {w1, w2}, {b1, b2}).first; },
                {x, weight, w1, w2, b1, b2}, draws);
    // Weights that lie behind one another, as a Transformer's do.
    const at::Tensor v1 = both.narrow(0, 0, 2 * width).view({2, width}).detach().requires_grad_(), v2 = both.narrow(0, 2 * width, 3 * width).view({3, width}).detach().requires_grad_();
    expect_same([&] { return composed_norm_linear(x, weight, 1e-5, {v1, v2}, {}); }, [&] { return norm_linear(x, weight, 1e-5, {v1, v2}).first; }, {x, weight, v1, v2}, draws);
    const at::Tensor qkv = random({rows, 5 * width}, draws), k_weight = random({width}, draws);
    expect_same([&] { return composed_norm_heads(qkv, weight, k_weight, 3, 1, 1e-6); }, [&] { return norm_heads(qkv, weight, k_weight, 3, 1, 1e-6); }, {qkv, weight, k_weight}, draws);
    const at::Tensor gate_up = random({rows, 2 * inner}, draws), down = random({width, inner}, draws);
    expect_same([&] { return at::addmm(x, composed_swiglu(gate_up), down.t()); }, [&] { return swiglu_linear(gate_up, down, {}, x); }, {gate_up, down, x}, draws);
  }
}

TEST(Composed, LogProbabilitiesAndEntropiesEqualTheKernels) {
  Draws draws(test_seed(), Stream::kTest, 72);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = 1 + draws.below(20), width = 1 + draws.below(9), vocab = 2 + draws.below(30);
    const at::Tensor hidden = random({rows, width}, draws), weight = random({vocab, width}, draws), tokens = at::randint(vocab, {rows}, at::kLong);
    const LinearLogprobOptions options{.temperature = 0.7, .chunk_rows = 1 + static_cast<int64_t>(draws.below(8))};
    const auto both = [](const std::tuple<at::Tensor, at::Tensor>& t) { return at::stack({std::get<0>(t), std::get<1>(t)}); };
    expect_same([&] { return both(composed_linear_logprob(hidden, weight, tokens, options)); }, [&] { return both(linear_logprob(hidden, weight, tokens, options)); },
                {hidden, weight}, draws);
  }
}

TEST(Composed, AttentionWithAnglesEqualsTheKernels) {
  Draws draws(test_seed(), Stream::kTest, 73);
  Trie trie;
  const int64_t root = trie.add(-1, 5);
  trie.add(root, 3), trie.add(root, 4);
  const int64_t heads = 4, kv_heads = 2, size = 6;
  const at::Tensor qkv = random({trie.num_rows, (heads + 2 * kv_heads) * size}, draws), angle = random({trie.num_rows, size / 2}, draws).detach();
  const at::Tensor cosine = angle.cos(), sine = angle.sin();
  const auto composed = [&] {
    const at::Tensor x = qkv.view({trie.num_rows, heads + 2 * kv_heads, size});
    return attention_trie(composed_rotary(x.narrow(1, 0, heads), cosine, sine), composed_rotary(x.narrow(1, heads, kv_heads), cosine, sine), x.narrow(1, heads + kv_heads, kv_heads), trie)
        .reshape({trie.num_rows, -1});
  };
  expect_same(composed, [&] { return rotary_attention_trie(qkv.clone(), cosine, sine, trie, {.heads = heads, .kv_heads = kv_heads}); }, {qkv}, draws);
}

TEST(Composed, SixteenBitsKeepSumsWide) {
  // 4096 numbers of size one: their squares summed in bf16 would stop at 256.
  const at::Tensor x = at::ones({1, 4096}, at::kBFloat16), y = composed_rms_norm(x, at::ones({4096}, at::kBFloat16), 0);
  expect_equal(y, at::ones({1, 4096}, at::kDouble), 1e-6);
  const auto [logp, entropy] = composed_linear_logprob(at::zeros({1, 8}, at::kBFloat16), at::zeros({5000, 8}, at::kBFloat16), at::zeros({1}, at::kLong), {});
  EXPECT_EQ(logp.scalar_type(), at::kFloat);
  EXPECT_NEAR(logp.item<double>(), -std::log(5000), 1e-5);
  EXPECT_NEAR(entropy.item<double>(), std::log(5000), 1e-4);
}

}  // namespace
}  // namespace trimtab
