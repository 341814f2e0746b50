// The shared-prefix operations against their definitions, in double precision, over random ragged tries.
#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/random.h"
#include "core/test_support.h"
#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/linear_logprob.h"
#include "policies/language/ops/norm_linear.h"
#include "policies/language/ops/swiglu_linear.h"

namespace trimtab {
namespace {

// Small problems: one thread is faster than handing them out.
const bool kOneThread = (at::set_num_threads(1), true);

// Segments below `parent`: up to `width` children, `depth` levels, lengths 0 to 9 (1 to 9 for leaves).
void grow(Trie& trie, int64_t parent, int depth, int width, Draws& draws) {
  const int children = 1 + static_cast<int>(draws.below(width));
  for (int c = 0; c < children; ++c) {
    const bool leaf = depth == 1;
    const int64_t length = leaf ? 1 + draws.below(9) : draws.below(4) == 0 ? 0 : draws.below(10);
    const int64_t s = trie.add(parent, length);
    if (!leaf) grow(trie, s, depth - 1, width, draws);
  }
}
Trie random_trie(Draws& draws) {
  Trie trie;
  grow(trie, -1, 1 + static_cast<int>(draws.below(3)), 4, draws);
  return trie;
}
at::Tensor random(std::vector<int64_t> shape, Draws& draws) {
  at::Tensor x = at::empty(shape, at::kDouble);
  double* data = x.data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) data[i] = draws.normal();
  return x.requires_grad_();
}
double largest_difference(const at::Tensor& a, const at::Tensor& b) { return a.numel() == 0 ? 0 : (a - b).abs().max().item<double>(); }

TEST(trie, keeps_depth_first_order_and_positions) {
  Trie t;
  const auto root = t.add(-1, 3), left = t.add(root, 2), inner = t.add(left, 0), leaf = t.add(inner, 2), right = t.add(root, 4);
  EXPECT_EQ(t.num_rows, 11);
  EXPECT_EQ(t.segments[root].end, 11);
  EXPECT_EQ(t.segments[left].end, 7);
  EXPECT_EQ(t.segments[leaf].position, 5);
  EXPECT_EQ(t.segments[right].position, 3);
  EXPECT_EQ(t.predictor_of_first(leaf), 4);     // through a segment without rows
  EXPECT_EQ(t.predictor_of_first(right), 2);
  EXPECT_EQ(t.predictor_of_first(root), -1);
  EXPECT_EQ(t.path_rows(leaf), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(t.positions(), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6}));
}

TEST(trie, attention_equals_its_definition_with_all_gradients) {
  Draws draws(test_seed(), Stream::kTest, 1);
  for (int round = 0; round < 300; ++round) {
    const Trie trie = random_trie(draws);
    if (trie.num_rows == 0) continue;
    const int64_t key_heads = 1 + draws.below(2), heads = key_heads * (1 + draws.below(3)), size = 4 * (1 + draws.below(4));
    const at::Tensor q = random({trie.num_rows, heads, size}, draws), k = random({trie.num_rows, key_heads, size}, draws),
                     v = random({trie.num_rows, key_heads, size}, draws), weight = random({trie.num_rows, heads, size}, draws).detach();
    const at::Tensor ours = attention_trie(q, k, v, trie), theirs = attention_trie_reference(q, k, v, trie);
    ASSERT_LE(largest_difference(ours, theirs), 1e-12) << "round " << round;
    const auto g = torch::autograd::grad({(ours * weight).sum()}, {q, k, v});
    const auto r = torch::autograd::grad({(theirs * weight).sum()}, {q, k, v});
    for (int i = 0; i < 3; ++i) ASSERT_LE(largest_difference(g[i], r[i]), 1e-10) << "round " << round << " input " << i;
  }
}

// Segments longer than a tile of the kernel (48 rows, 128 keys), head sizes that are no whole vectors.
TEST(trie, attention_over_long_segments_equals_its_definition_with_all_gradients) {
  Draws draws(test_seed(), Stream::kTest, 4);
  for (int round = 0; round < 25; ++round) {
    Trie trie;
    for (uint32_t p = 0, prompts = 1 + draws.below(2); p < prompts; ++p) {
      const int64_t root = trie.add(-1, draws.below(300));
      for (uint32_t c = 0, n = 1 + draws.below(3); c < n; ++c) {
        const int64_t child = trie.add(root, 1 + draws.below(140));
        if (draws.below(3) == 0) trie.add(child, 1 + draws.below(60));
      }
    }
    const int64_t key_heads = 1 + draws.below(2), heads = key_heads * (1 + draws.below(2)), size = 1 + draws.below(80);
    const at::Tensor q = random({trie.num_rows, heads, size}, draws), k = random({trie.num_rows, key_heads, size}, draws),
                     v = random({trie.num_rows, key_heads, size}, draws), weight = random({trie.num_rows, heads, size}, draws).detach();
    const at::Tensor ours = attention_trie(q, k, v, trie), theirs = attention_trie_reference(q, k, v, trie);
    ASSERT_LE(largest_difference(ours, theirs), 1e-12) << "round " << round;
    const auto g = torch::autograd::grad({(ours * weight).sum()}, {q, k, v});
    const auto r = torch::autograd::grad({(theirs * weight).sum()}, {q, k, v});
    for (int i = 0; i < 3; ++i) ASSERT_LE(largest_difference(g[i], r[i]), 1e-10) << "round " << round << " input " << i;
  }
}

TEST(trie, attention_does_not_depend_on_the_number_of_threads) {
  Draws draws(test_seed(), Stream::kTest, 5);
  Trie trie;
  for (int p = 0; p < 3; ++p) {
    const int64_t root = trie.add(-1, 150);
    for (int g = 0; g < 3; ++g) trie.add(root, 70);
  }
  const at::Tensor q = random({trie.num_rows, 4, 20}, draws), k = random({trie.num_rows, 2, 20}, draws), v = random({trie.num_rows, 2, 20}, draws);
  std::vector<std::vector<at::Tensor>> results;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    const at::Tensor out = attention_trie(q, k, v, trie);
    results.push_back(torch::autograd::grad({(out * out).sum()}, {q, k, v}));
    results.back().push_back(out.detach());
  }
  at::set_num_threads(1);
  for (const auto& result : results)
    for (size_t i = 0; i < result.size(); ++i) EXPECT_TRUE(result[i].equal(results[0][i])) << i;
}

TEST(trie, large_scores_stay_finite) {
  Trie trie;
  trie.add(trie.add(-1, 140), 3);
  const at::Tensor q = at::full({143, 1, 16}, 300.0, at::kFloat), k = at::linspace(-300, 300, 143 * 16, at::kFloat).view({143, 1, 16});
  const at::Tensor x = k.clone().requires_grad_(), out = attention_trie(q, x, k, trie);
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  EXPECT_TRUE(torch::autograd::grad({out.sum()}, {x})[0].isfinite().all().item<bool>());
}

// By ATen's own operations, one after another.
at::Tensor plain_norm(const at::Tensor& x, const at::Tensor& w, double epsilon) { return x * (x.square().mean(-1, true) + epsilon).rsqrt() * w; }

TEST(fused_rows, norm_with_its_linear_maps_equals_the_operations_one_by_one) {
  Draws draws(test_seed(), Stream::kTest, 6);
  for (int round = 0; round < 40; ++round) {
    const int64_t rows = 1 + draws.below(round % 8 == 0 ? 600 : 30), width = 1 + draws.below(40), a = 1 + draws.below(20), b = 1 + draws.below(20);
    std::vector<at::Tensor> in = {random({rows, width}, draws), random({width}, draws), random({a, width}, draws), random({b, width}, draws),
                                  random({a}, draws), random({b}, draws)};
    const bool biased = round % 2 == 0;
    const auto [y, x] = norm_linear(in[0], in[1], 1e-5, {in[2], in[3]}, biased ? std::vector<at::Tensor>{in[4], in[5]} : std::vector<at::Tensor>{});
    const at::Tensor h = plain_norm(in[0], in[1], 1e-5);
    at::Tensor other = at::cat({at::mm(h, in[2].t()), at::mm(h, in[3].t())}, 1);
    if (biased) other = other + at::cat({in[4], in[5]});
    ASSERT_LE(largest_difference(y, other), 1e-11);
    if (!biased) in.resize(4);
    const at::Tensor weight = random({rows, a + b}, draws).detach(), round_the_block = random({rows, width}, draws).detach();
    const auto g = torch::autograd::grad({(y * weight).sum() + (x * round_the_block).sum()}, in);
    const auto r = torch::autograd::grad({(other * weight).sum() + (in[0] * round_the_block).sum()}, in);
    for (size_t i = 0; i < in.size(); ++i) ASSERT_LE(largest_difference(g[i], r[i]), 1e-9) << "input " << i << " round " << round;
  }
}

TEST(fused_rows, gated_unit_with_its_linear_map_equals_the_operations_one_by_one) {
  Draws draws(test_seed(), Stream::kTest, 7);
  for (int round = 0; round < 40; ++round) {
    const int64_t rows = 1 + draws.below(round % 8 == 0 ? 600 : 30), width = 1 + draws.below(40), out = 1 + draws.below(20);
    const std::vector<at::Tensor> in = {random({rows, 2 * width}, draws), random({out, width}, draws), random({out}, draws), random({rows, out}, draws)};
    const at::Tensor y = swiglu_linear(in[0], in[1], in[2], in[3]);
    const std::vector<at::Tensor> halves = in[0].chunk(2, 1);
    const at::Tensor other = in[3] + at::mm(at::silu(halves[0]) * halves[1], in[1].t()) + in[2];
    ASSERT_LE(largest_difference(y, other), 1e-11);
    const at::Tensor weight = random({rows, out}, draws).detach();
    const auto g = torch::autograd::grad({(y * weight).sum()}, in), r = torch::autograd::grad({(other * weight).sum()}, in);
    for (size_t i = 0; i < in.size(); ++i) ASSERT_LE(largest_difference(g[i], r[i]), 1e-10) << "input " << i;
  }
}

TEST(fused_rows, gated_unit_far_from_zero_is_finite_in_single_precision) {
  const at::Tensor gate_up = at::tensor({-1e4f, -200.0f, -89.0f, 0.0f, 89.0f, 200.0f, 1e4f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f}).view({1, 14}).requires_grad_();
  const at::Tensor y = swiglu_linear(gate_up, at::eye(7), {}, at::zeros({1, 7}));
  EXPECT_LE(largest_difference(y, at::silu(gate_up.narrow(1, 0, 7))), 1e-3);
  EXPECT_TRUE(torch::autograd::grad({y.sum()}, {gate_up})[0].isfinite().all().item<bool>());
}

TEST(trie, rotary_attention_equals_the_operations_one_by_one) {
  Draws draws(test_seed(), Stream::kTest, 8);
  for (int round = 0; round < 40; ++round) {
    const Trie trie = random_trie(draws);
    if (trie.num_rows == 0) continue;
    const int64_t kv = 1 + draws.below(2), heads = kv * (1 + draws.below(3)), half = 1 + draws.below(20), all = heads + 2 * kv;
    const at::Tensor qkv = random({trie.num_rows, all * 2 * half}, draws), angle = random({trie.num_rows, half}, draws).detach(),
                     cosine = angle.cos(), sine = angle.sin(), weight = random({trie.num_rows, heads * 2 * half}, draws).detach();
    const at::Tensor x = qkv.view({-1, all, 2 * half}), low = x.narrow(2, 0, half), high = x.narrow(2, half, half);
    const at::Tensor c = cosine.unsqueeze(1), s = sine.unsqueeze(1), turned = at::cat({low * c - high * s, high * c + low * s}, 2);
    const at::Tensor other = attention_trie(turned.narrow(1, 0, heads), turned.narrow(1, heads, kv), x.narrow(1, heads + kv, kv), trie).reshape({trie.num_rows, -1});
    const auto r = torch::autograd::grad({(other * weight).sum()}, {qkv});
    const at::Tensor ours = rotary_attention_trie(qkv * 1, cosine, sine, trie, {.heads = heads, .kv_heads = kv});   // uses its input up
    ASSERT_LE(largest_difference(ours, other), 1e-12);
    ASSERT_LE(largest_difference(torch::autograd::grad({(ours * weight).sum()}, {qkv})[0], r[0]), 1e-10);
  }
}

TEST(trie, attention_in_single_precision_stays_near_double) {
  Draws draws(test_seed(), Stream::kTest, 2);
  Trie trie;
  const auto prompt = trie.add(-1, 200);
  for (int g = 0; g < 4; ++g) trie.add(prompt, 20 + 7 * g);
  const at::Tensor q = random({trie.num_rows, 4, 32}, draws), k = random({trie.num_rows, 2, 32}, draws), v = random({trie.num_rows, 2, 32}, draws);
  const auto f = [](const at::Tensor& x) { return x.detach().to(at::kFloat); };
  EXPECT_LE(largest_difference(attention_trie(f(q), f(k), f(v), trie).to(at::kDouble), attention_trie_reference(q, k, v, trie)), 2e-5);
}

TEST(linear_logprob, equals_log_softmax_with_gradients_through_both_results) {
  Draws draws(test_seed(), Stream::kTest, 3);
  for (int round = 0; round < 50; ++round) {
    const int64_t rows = draws.below(40), width = 1 + draws.below(12), vocab = 1 + draws.below(50);
    const at::Tensor hidden = random({rows, width}, draws), weight = random({vocab, width}, draws), a = random({rows}, draws).detach(),
                     b = random({rows}, draws).detach();
    at::Tensor tokens = at::empty({rows}, at::kLong);
    for (int64_t i = 0; i < rows; ++i) tokens[i] = static_cast<int64_t>(draws.below(vocab));
    const double temperature = 0.3 + draws.uniform();
    const auto [logp, entropy] = linear_logprob(hidden, weight, tokens, {.temperature = temperature, .chunk_rows = 7});
    const at::Tensor all = at::log_softmax(at::matmul(hidden, weight.t()) / temperature, -1);
    const at::Tensor logp2 = all.gather(1, tokens.unsqueeze(1)).squeeze(1), entropy2 = -(all.exp() * all).sum(-1);
    ASSERT_LE(largest_difference(logp, logp2), 1e-12);
    ASSERT_LE(largest_difference(entropy, entropy2), 1e-12);
    const auto g = torch::autograd::grad({(logp * a + entropy * b).sum()}, {hidden, weight});
    const auto r = torch::autograd::grad({(logp2 * a + entropy2 * b).sum()}, {hidden, weight});
    for (int i = 0; i < 2; ++i) ASSERT_LE(largest_difference(g[i], r[i]), 1e-10);
  }
}

}  // namespace
}  // namespace trimtab
