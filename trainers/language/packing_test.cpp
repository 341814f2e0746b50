// Packing: every reply once, within the budget, and the same losses and gradients however a batch is cut.
#include "trainers/language/packing.h"

#include <ATen/ATen.h>

#include <gtest/gtest.h>

#include "core/random.h"
#include "core/test_support.h"
#include "policies/language/transformer.h"
#include "trainers/language/scorer.h"

namespace trimtab {
namespace {

struct Texts {
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::vector<std::vector<int32_t>>> replies;
  int64_t rows = 0;
};

std::vector<int32_t> tokens(int64_t n, Draws& draws) {
  std::vector<int32_t> out(n);
  for (int32_t& t : out) t = static_cast<int32_t>(draws.below(20));
  return out;
}

// Ragged groups: of one reply, of empty prompts, of replies of one token.
Texts ragged(uint32_t round) {
  Draws draws(test_seed(), Stream::kTest, round, 41);
  Texts out;
  for (uint32_t g = 0, groups = 1 + draws.below(5); g < groups; ++g) {
    out.prompts.push_back(tokens(draws.below(6), draws));
    out.replies.emplace_back();
    for (uint32_t r = 0, replies = 1 + draws.below(4); r < replies; ++r) out.replies.back().push_back(tokens(1 + draws.below(7), draws));
  }
  return out;
}

std::vector<PackedGroup> groups_of(Texts& texts) {
  std::vector<PackedGroup> out;
  texts.rows = 0;
  for (size_t g = 0; g < texts.prompts.size(); ++g) {
    out.push_back({texts.prompts[g], {}});
    for (const auto& reply : texts.replies[g]) {
      const auto n = static_cast<int64_t>(reply.size());
      out.back().replies.push_back({reply, texts.rows, 0, n});
      texts.rows += n;
    }
  }
  return out;
}

Transformer small_model() {
  TransformerConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.num_layers = 2, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 8, c.intermediate_size = 24;
  return Transformer(c, 7, at::kFloat, {0.3, 0.3});
}

struct Outcome {
  std::vector<float> logp;
  at::Tensor gradient;
};

Outcome run(const Transformer& model, const std::vector<MicroBatch>& batches, int64_t rows, int64_t shards, int threads, at::ScalarType format = at::kFloat) {
  Outcome out{std::vector<float>(rows, 1), {}};
  Pool pool(threads);
  Scorer scorer(model, {.shards = shards, .compute = format});
  model.flat_gradient().zero_();
  scorer.backward(batches, 0.7, [&](int64_t, const Scorer::Rows& r) {
    for (size_t k = 0; k < r.row.size(); ++k) out.logp[r.row[k]] = r.logp[k], r.d_logp[k] = 0.1f * static_cast<float>(r.row[k] % 7) - 0.3f, r.d_entropy[k] = 0.05f;
  }, pool);
  out.gradient = model.flat_gradient().clone();
  return out;
}

TEST(Packing, prefix_shared_or_repeated_cut_or_whole_gives_one_gradient) {
  const Transformer model = small_model();
  for (uint32_t round = 0; round < 30; ++round) {
    Texts texts = ragged(round);
    const std::vector<PackedGroup> groups = groups_of(texts);
    const Outcome whole = run(model, pack(groups, {.token_budget = 1 << 20}), texts.rows, 1, 1);
    const Outcome others[] = {run(model, pack(groups, {.token_budget = 1 << 20, .shared_prefix = false}), texts.rows, 1, 1),
                              run(model, pack(groups, {.token_budget = 12}), texts.rows, 3, 2),
                              run(model, pack(groups, {.token_budget = 1 << 20, .at_least = 4}), texts.rows, 2, 2)};
    for (const Outcome& other : others) {
      for (int64_t i = 0; i < texts.rows; ++i) ASSERT_NEAR(whole.logp[i], other.logp[i], 2e-5) << "round " << round;
      ASSERT_TRUE(at::allclose(whole.gradient, other.gradient, 1e-3, 2e-5)) << "round " << round;
    }
  }
}

// Shards and ranks wait for the largest part: none strays from an even share by more than the group that lies on its border.
TEST(Packing, PartsAreEven) {
  for (uint32_t round = 0; round < 50; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 43);
    std::vector<std::vector<int32_t>> replies;
    for (uint32_t g = 0, groups = 12 + draws.below(20); g < groups; ++g) replies.push_back(tokens(5 + draws.below(30), draws));
    std::vector<PackedGroup> groups;
    int64_t total = 0, largest = 0;
    const std::vector<int32_t> prompt = {1};
    for (const auto& reply : replies) {
      const auto n = static_cast<int64_t>(reply.size());
      groups.push_back({prompt, {{reply, total, 0, n}}});
      total += n + 1, largest = std::max(largest, n + 1);
    }
    const std::vector<MicroBatch> parts = pack(groups, {.token_budget = 1 << 20, .at_least = 4});
    ASSERT_EQ(parts.size(), 4u);
    for (const MicroBatch& part : parts) EXPECT_LE(std::abs(4 * part.tokens.numel() - total), 4 * largest) << "round " << round;
  }
}

TEST(Packing, ThreadsDoNotChangeABit) {
  const Transformer model = small_model();
  Texts texts = ragged(3);
  const std::vector<PackedGroup> groups = groups_of(texts);
  const std::vector<MicroBatch> batches = pack(groups, {.token_budget = 10});
  const Outcome one = run(model, batches, texts.rows, 4, 1), three = run(model, batches, texts.rows, 4, 3);
  EXPECT_TRUE(at::equal(one.gradient, three.gradient));
  EXPECT_EQ(one.logp, three.logp);
}

double cosine(const at::Tensor& a, const at::Tensor& b) { return (a * b).sum().item<double>() / (a.norm() * b.norm()).item<double>(); }

// bf16 has 8 bits of a number, so single entries differ by percents; the direction hardly does.
TEST(Packing, SixteenBitsBesideWideMastersGiveNearlyTheSameGradient) {
  const Transformer model = small_model();
  for (uint32_t round = 0; round < 10; ++round) {
    Texts texts = ragged(round);
    const std::vector<PackedGroup> groups = groups_of(texts);
    const std::vector<MicroBatch> batches = pack(groups, {.token_budget = 12});
    const Outcome wide = run(model, batches, texts.rows, 2, 1), narrow = run(model, batches, texts.rows, 2, 1, at::kBFloat16);
    for (int64_t i = 0; i < texts.rows; ++i) ASSERT_NEAR(wide.logp[i], narrow.logp[i], 0.15) << "round " << round;
    EXPECT_GT(cosine(wide.gradient, narrow.gradient), 0.995) << "round " << round;
    EXPECT_FALSE(at::equal(wide.gradient, narrow.gradient));
    EXPECT_EQ(narrow.gradient.scalar_type(), at::kFloat);
  }
}

TEST(Packing, ACopyFollowsItsMasters) {
  Transformer model = small_model();
  Scorer scorer(model, {.compute = at::kBFloat16});
  model.flat().mul_(2);
  EXPECT_TRUE(at::equal(scorer.computing().flat(), model.flat().to(at::kBFloat16)));
}

TEST(Packing, StaysWithinTheBudgetAndBalancesParts) {
  std::vector<int32_t> prompt(10, 1), reply(10, 2);
  std::vector<PackedGroup> groups;
  for (int64_t g = 0; g < 16; ++g) groups.push_back({prompt, {{reply, 20 * g, 0, 10}, {reply, 20 * g + 10, 0, 10}}});
  for (const MicroBatch& b : pack(groups, {.token_budget = 64})) EXPECT_LE(b.tokens.numel(), 64);
  const std::vector<MicroBatch> parts = pack(groups, {.token_budget = 1 << 20, .at_least = 4});
  ASSERT_EQ(parts.size(), 4u);
  for (const MicroBatch& b : parts) EXPECT_EQ(b.tokens.numel(), 120);
}

TEST(Packing, AnEmptyPromptLeavesItsFirstTokenUnscored) {
  const std::vector<int32_t> reply = {3, 4, 5};
  const PackedGroup group{{}, {{reply, 0, 0, 3}}};
  const std::vector<MicroBatch> batches = pack(std::span(&group, 1), {});
  EXPECT_EQ(batches[0].row, (std::vector<int64_t>{1, 2}));
}

}  // namespace
}  // namespace trimtab
