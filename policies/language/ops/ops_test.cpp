// The shared-prefix operations against their definitions, in double precision, over random ragged tries.
#include <gtest/gtest.h>
#include <torch/torch.h>


#include "core/random.h"
#include "core/test_support.h"
#include "policies/language/ops/attention_trie.h"
#include "policies/language/ops/linear_logprob.h"

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
