// Layers computed again in the backward, and the forward without a causal mask.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "core/test_support.h"
#include "policies/language/ops/linear_logprob.h"
#include "policies/language/transformer.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

TransformerConfig small(const std::string& family, int64_t layers = 2) {
  TransformerConfig c;
  c.family = family;
  c.vocab_size = 23, c.hidden_size = 16, c.num_layers = layers, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 8, c.intermediate_size = 24;
  c.qkv_bias = family == "qwen2", c.qk_norm = family == "qwen3", c.tied_embeddings = family == "qwen2";
  return c;
}

at::Tensor random_tokens(int64_t count, uint32_t stream) {
  Draws draws(test_seed(), Stream::kTest, stream);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(draws.below(23));
  return at::tensor(ids, at::kLong);
}

Transformer with_lora(const Transformer& base) {
  const Transformer out = base.with_adapter(LoraConfig{.rank = 2, .alpha = 4}, 5);
  out.trainable().add_(0.1 * at::sin(at::arange(out.trainable().numel(), out.trainable().options())));
  return out;
}

at::Tensor loss_of(const Transformer& m, const at::Tensor& tokens, const Trie& trie, const ForwardOptions& options) {
  const auto [logp, entropy] = linear_logprob(m.hidden(tokens, trie, options), m.head(), tokens.roll(-1));
  return (logp * at::linspace(-1, 2, tokens.numel(), m.flat().options())).sum() + 0.1 * entropy.sum();
}

Trie two_groups() {
  Trie trie;
  trie.add(-1, 9), trie.add(0, 5), trie.add(0, 7), trie.add(-1, 4), trie.add(3, 6);
  return trie;
}

TEST(RecomputedLayers, GiveTheSameBits) {
  const Trie trie = two_groups();
  const at::Tensor tokens = random_tokens(trie.num_rows, 31);
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (const bool lora : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {}", family, lora));
      const Transformer base(small(family, 3), 1, at::kFloat, {.weight = 0.3, .embedding = 0.3}), model = lora ? with_lora(base) : base.replica();
      std::vector<at::Tensor> losses, gradients;
      for (const bool again : {false, true}) {
        model.flat_gradient().fill_(0.125f);   // it is added to
        const at::Tensor loss = loss_of(model, tokens, trie, {.recompute_layers = again});
        loss.backward();
        losses.push_back(loss.detach()), gradients.push_back(model.flat_gradient().clone());
      }
      EXPECT_TRUE(losses[0].equal(losses[1]));
      EXPECT_TRUE(gradients[0].equal(gradients[1])) << (gradients[0] - gradients[1]).abs().max();
      EXPECT_GT((gradients[0] - 0.125f).abs().max().item<float>(), 1e-3f);
    }
}

TEST(RecomputedLayers, OutliveTheTrieTheyWereGiven) {
  const Transformer model(small("llama"), 1);
  const at::Tensor tokens = random_tokens(31, 32);
  at::Tensor loss;
  {
    const Trie trie = two_groups();
    loss = loss_of(model, tokens, trie, {.recompute_layers = true});
  }
  loss.backward();
  EXPECT_GT(model.flat_gradient().abs().max().item<float>(), 0);
}

// ATen's own CPU allocator with a count of the bytes held and of their highest number.
class CountingAllocator : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {}
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr inner = inner_->allocate(bytes);
    held += static_cast<int64_t>(bytes), peak = std::max(peak, held);
    void* data = inner.get();
    return {data, new Block{std::move(inner), bytes}, &release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  static inline int64_t held = 0, peak = 0;

 private:
  struct Block {
    c10::DataPtr inner;
    size_t bytes;
  };
  static void release(void* block) {
    auto* b = static_cast<Block*>(block);
    held -= static_cast<int64_t>(b->bytes);
    delete b;
  }
  c10::Allocator* inner_;
};

int64_t peak_bytes(const Transformer& model, const at::Tensor& tokens, const Trie& trie, const ForwardOptions& options) {
  c10::Allocator* const usual = c10::GetCPUAllocator();
  CountingAllocator counting(usual);
  c10::SetCPUAllocator(&counting, 1);
  CountingAllocator::held = CountingAllocator::peak = 0;
  loss_of(model, tokens, trie, options).backward();
  c10::SetCPUAllocator(usual, 1);
  return CountingAllocator::peak;
}

TEST(RecomputedLayers, HoldTheActivationsOfOneLayer) {
  Trie trie;
  trie.add(-1, 300), trie.add(0, 200), trie.add(0, 200);
  const at::Tensor tokens = random_tokens(trie.num_rows, 33);
  for (const bool lora : {false, true}) {
    const Transformer base(small("llama", 12), 1), model = lora ? with_lora(base) : base.replica();
    const int64_t kept = peak_bytes(model, tokens, trie, {}), again = peak_bytes(model, tokens, trie, {.recompute_layers = true});
    EXPECT_LT(3 * again, kept) << again << " of " << kept;
  }
}

// The model by its definition, in plain ATen with masked scores [T, T]: rows see those with mask 0.
at::Tensor dense_hidden(const Transformer& m, const at::Tensor& tokens, const at::Tensor& positions, const at::Tensor& mask) {
  const TransformerConfig& c = m.config();
  const auto get = [&](const std::string& name) { return m.parameters().at(name); };
  const auto norm = [&](const at::Tensor& x, const at::Tensor& w) { return x * at::rsqrt(x.square().mean(-1, true) + c.norm_eps) * w; };
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    const at::Tensor y = at::matmul(x, get(name + ".weight").t());
    return m.parameters().contains(name + ".bias") ? y + get(name + ".bias") : y;
  };
  const at::Tensor inverse = at::pow(c.rope.theta, -at::arange(0, c.head_dim, 2, at::kDouble) / static_cast<double>(c.head_dim));
  const at::Tensor angle = at::outer(positions.to(at::kDouble), inverse).repeat({1, 2}).unsqueeze(1);
  const auto turn = [&](const at::Tensor& x) {
    const auto half = x.chunk(2, -1);
    return x * angle.cos() + at::cat({-half[1], half[0]}, -1) * angle.sin();
  };
  at::Tensor x = at::embedding(get("model.embed_tokens.weight"), tokens);
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string l = fmt::format("model.layers.{}.", i), a = l + "self_attn.";
    const at::Tensor h = norm(x, get(l + "input_layernorm.weight"));
    const auto heads = [&](const char* name, int64_t n) { return linear(h, a + name).view({-1, n, c.head_dim}); };
    at::Tensor q = heads("q_proj", c.num_heads), k = heads("k_proj", c.num_kv_heads), v = heads("v_proj", c.num_kv_heads);
    if (c.qk_norm) q = norm(q, get(a + "q_norm.weight")), k = norm(k, get(a + "k_norm.weight"));
    const int64_t group = c.num_heads / c.num_kv_heads;
    q = turn(q), k = turn(k).repeat_interleave(group, 1), v = v.repeat_interleave(group, 1);
    const at::Tensor p = (at::einsum("qhd,khd->hqk", {q, k}) / std::sqrt(static_cast<double>(c.head_dim)) + mask).softmax(-1);
    x = x + linear(at::einsum("hqk,khd->qhd", {p, v}).reshape({tokens.size(0), -1}), a + "o_proj");
    const at::Tensor g = norm(x, get(l + "post_attention_layernorm.weight"));
    x = x + linear(at::silu(linear(g, l + "mlp.gate_proj")) * linear(g, l + "mlp.up_proj"), l + "mlp.down_proj");
  }
  return norm(x, get("model.norm.weight"));
}

// Row r sees row k when k's segment is r's or one it continues; with `causal` only rows that are not behind it.
at::Tensor mask_of(const Trie& trie, bool causal) {
  std::vector<int64_t> segment_of(trie.num_rows);
  for (size_t i = 0; i < trie.segments.size(); ++i)
    for (int64_t k = 0; k < trie.segments[i].length; ++k) segment_of[trie.segments[i].first + k] = static_cast<int64_t>(i);
  at::Tensor mask = at::full({trie.num_rows, trie.num_rows}, -INFINITY, at::kDouble);
  for (int64_t r = 0; r < trie.num_rows; ++r)
    for (int64_t k = 0; k < (causal ? r + 1 : trie.num_rows); ++k)
      for (int64_t a = segment_of[r]; a >= 0; a = trie.segments[a].parent)
        if (a == segment_of[k]) mask[r][k] = 0;
  return mask;
}

// Prompts with answers in blocks, each block clean and noised: children of the clean block before it.
Trie blocks(Draws& draws) {
  Trie trie;
  for (int text = 0; text < 3; ++text) {
    int64_t before = trie.add(-1, draws.below(6));
    for (uint32_t b = 0, n = draws.below(4); b < n; ++b) {
      const int64_t length = 1 + draws.below(4);
      trie.add(before, length);
      before = trie.add(before, length);
    }
  }
  trie.add(-1, 5), trie.add(-1, 5), trie.add(-1, 0), trie.add(-1, 5);   // of one length
  return trie;
}

void expect_the_dense_reference(const Trie& trie) {
  const at::Tensor tokens = random_tokens(trie.num_rows, 34), positions = at::tensor(trie.positions(), at::kLong);
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (const bool causal : {true, false})
      for (const bool again : {false, true}) {
        SCOPED_TRACE(fmt::format("{} causal {} recomputed {}", family, causal, again));
        const Transformer model(small(family), 1, at::kDouble, {.weight = 0.3, .embedding = 0.3});
        const at::Tensor weight = at::sin(at::arange(trie.num_rows * 16, at::kDouble)).view({-1, 16});
        const at::Tensor ours = model.hidden(tokens, trie, {.causal = causal, .recompute_layers = again});
        (ours * weight).sum().backward();
        const at::Tensor gradient = model.flat_gradient().clone();
        model.flat_gradient().zero_();
        const at::Tensor theirs = dense_hidden(model, tokens, positions, mask_of(trie, causal));
        (theirs * weight).sum().backward();
        EXPECT_LE((ours - theirs).abs().max().item<double>(), 1e-11);
        EXPECT_LE((gradient - model.flat_gradient()).abs().max().item<double>(), 1e-11 * (1 + gradient.abs().max().item<double>()));
      }
}

TEST(Forward, WithAndWithoutTheCausalMaskEqualsTheDenseReference) {
  Trie trie;
  for (const int64_t length : {7, 1, 0, 12}) trie.add(-1, length);
  expect_the_dense_reference(trie);
}

TEST(Forward, BlocksSeeThemselvesAndWhatTheyContinueAsTheDenseReferenceDoes) {
  Draws draws(test_seed(), Stream::kTest, 38);
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE(round);
    expect_the_dense_reference(blocks(draws));
  }
}

TEST(Forward, WithoutTheMaskEarlierRowsSeeLaterOnesOfTheirSegmentAlone) {
  Trie trie;
  trie.add(-1, 6), trie.add(-1, 5);
  const Transformer model(small("llama"), 1, at::kFloat, {.weight = 0.3, .embedding = 0.3});
  at::Tensor tokens = random_tokens(trie.num_rows, 35);
  const at::NoGradGuard no_grad;
  for (const bool causal : {true, false}) {
    const at::Tensor before = model.hidden(tokens, trie, {.causal = causal});
    at::Tensor other = tokens.clone();
    other[5] = (other[5] + 1) % 23;
    const at::Tensor change = (model.hidden(other, trie, {.causal = causal}) - before).abs().amax(1);
    EXPECT_EQ(change[0].item<float>() > 0, !causal);
    EXPECT_GT(change[5].item<float>(), 0);
    EXPECT_EQ(change.slice(0, 6).max().item<float>(), 0);
  }
}

TEST(Forward, ABlockSeesNothingOfItsNoisedTwinOrOfWhatFollows) {
  Trie trie;
  const int64_t prompt = trie.add(-1, 3);
  trie.add(prompt, 2);                              // rows 3, 4: noised
  trie.add(trie.add(prompt, 2), 2);                 // rows 5, 6: clean; 7, 8: the block after it
  const Transformer model(small("llama"), 1, at::kFloat, {.weight = 0.3, .embedding = 0.3});
  const at::Tensor tokens = random_tokens(trie.num_rows, 36);
  const at::NoGradGuard no_grad;
  const auto changed_by = [&](int64_t row) {
    at::Tensor other = tokens.clone();
    other[row] = (other[row] + 1) % 23;
    std::vector<int64_t> rows;
    const at::Tensor change = (model.hidden(other, trie, {.causal = false}) - model.hidden(tokens, trie, {.causal = false})).abs().amax(1);
    for (int64_t r = 0; r < trie.num_rows; ++r)
      if (change[r].item<float>() > 0) rows.push_back(r);
    return rows;
  };
  EXPECT_EQ(changed_by(2), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(changed_by(4), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(changed_by(6), (std::vector<int64_t>{5, 6, 7, 8}));
  EXPECT_EQ(changed_by(8), (std::vector<int64_t>{7, 8}));
}

}  // namespace
}  // namespace trimtab
