// A cache of 16 bits against the Transformer's own logits, narrower ones further away, attention's mass, and generation.
#include "engine/cached_forward/cached_forward.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "engine/kv_cache/kv_cache_cases.h"
#include "policies/language/ops/trie.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

TransformerConfig random_config(Draws& draws) {
  TransformerConfig c;
  const char* families[] = {"llama", "qwen2", "qwen3"};
  c.family = families[draws.below(3)];
  c.vocab_size = 5 + draws.below(60), c.hidden_size = 8 + 3 * draws.below(12), c.num_layers = 1 + draws.below(3);
  c.num_kv_heads = 1 + draws.below(2), c.num_heads = c.num_kv_heads * (1 + draws.below(3));
  const int64_t head_dims[] = {16, 32, 64};
  c.head_dim = head_dims[draws.below(3)], c.intermediate_size = 1 + draws.below(80), c.max_positions = 256;
  c.qkv_bias = c.family == "qwen2", c.qk_norm = c.family == "qwen3", c.tied_embeddings = draws.below(2) == 0;
  return c;
}

Transformer random_model(const TransformerConfig& c, Draws& draws) {
  Transformer model(c, draws.below(1000));
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(8);   // far from uniform attention
  return model;
}

std::vector<int32_t> random_text(int64_t length, const TransformerConfig& c, Draws& draws) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(c.vocab_size))));
  return ids;
}

// Next-token logits of every position, [text, vocab].
std::vector<std::vector<float>> cached_logits(const CachedModel& model, const std::vector<int32_t>& text, KvCache& cache, const PackPages& pack,
                                              bool track = false) {
  CachedForward forward(model, 64);
  std::vector<std::vector<float>> out(text.size());
  score_tokens(forward, text, cache, pack, [&](int64_t i, std::span<const float> logits) { out[i].assign(logits.begin(), logits.end()); }, track);
  return out;
}

double largest_difference(const at::Tensor& logits, const std::vector<std::vector<float>>& mine) {
  double most = 0;
  for (size_t i = 0; i < mine.size(); ++i)
    for (size_t v = 0; v < mine[i].size(); ++v) most = std::max(most, std::abs(double{mine[i][v]} - logits[static_cast<int64_t>(i)].data_ptr<float>()[v]));
  return most;
}

at::Tensor own_logits(const Transformer& model, const std::vector<int32_t>& text) {
  const at::NoGradGuard no_grad;
  const at::Tensor tokens = at::tensor(std::vector<int64_t>(text.begin(), text.end()));
  Trie trie;
  trie.add(-1, static_cast<int64_t>(text.size()));
  return model.logits(tokens, trie);
}

TEST(CachedForward, SixteenBitsGiveTheModelsLogits) {
  Pool pool(1);
  for (uint32_t round = 0; round < 25; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const TransformerConfig c = random_config(draws);
    const Transformer model = random_model(c, draws);
    const CachedModel cached(model, pool);
    const std::vector<int32_t> text = random_text(1 + draws.below(120), c, draws);
    KvCache cache(cached.heads(), random_options(draws));
    const auto mine = cached_logits(cached, text, cache, pack_all(std::vector<KvBits>(cached.heads().count(), KvBits{16, 16})));
    const at::Tensor expected = own_logits(model, text);
    ASSERT_LT(largest_difference(expected, mine), 4e-3 * expected.abs().max().item<double>()) << "round " << round;   // f16 keys and values
    EXPECT_EQ(cache.tokens(), static_cast<int64_t>(text.size()));
    EXPECT_NEAR(cache.bits_per_element(), 16, 1e-9);
  }
}

// The narrower the cache, the further from the model; 8 bits are near it.
TEST(CachedForward, NarrowerIsFurtherAndEvictionForgets) {
  Pool pool(1);
  Draws draws(test_seed(), Stream::kTest, 100);
  TransformerConfig c = random_config(draws);
  c.head_dim = 64, c.hidden_size = 48, c.num_layers = 2, c.max_positions = 512;
  const Transformer model = random_model(c, draws);
  const CachedModel cached(model, pool);
  const std::vector<int32_t> text = random_text(300, c, draws);
  const at::Tensor expected = own_logits(model, text);
  double last = 0;
  for (const uint8_t width : {16, 8, 4, 2, 0}) {
    KvCache cache(cached.heads(), {.rotate_keys = true});
    const auto mine = cached_logits(cached, text, cache, pack_all(std::vector<KvBits>(cached.heads().count(), KvBits{width, width})));
    double error = 0;
    for (size_t i = 0; i < mine.size(); ++i)
      for (size_t v = 0; v < mine[i].size(); ++v) error += std::pow(mine[i][v] - expected[static_cast<int64_t>(i)].data_ptr<float>()[v], 2);
    EXPECT_GT(error, last) << static_cast<int>(width);
    last = error;
    const int64_t pages = (300 - 4) / 32, rest = 300 - pages * 32;   // all that is not in a page is held at 16 bits
    EXPECT_EQ(cache.bytes(), cached.heads().count() * (rest * 64 * 4 + pages * cache.page_bytes({width, width})));
  }
}

TEST(CachedForward, TracksWhereAttentionGoes) {
  Pool pool(1);
  Draws draws(test_seed(), Stream::kTest, 200);
  const TransformerConfig c = random_config(draws);
  const Transformer model = random_model(c, draws);
  const CachedModel cached(model, pool);
  const KvCacheOptions o{.page_tokens = 16};
  KvCache cache(cached.heads(), o), quiet(cached.heads(), o);
  const PackPages pack = pack_all(std::vector<KvBits>(cached.heads().count(), KvBits{8, 8}));
  const std::vector<int32_t> text = random_text(100, c, draws);
  const auto with = cached_logits(cached, text, cache, pack, true), without = cached_logits(cached, text, quiet, pack);
  EXPECT_EQ(with, without);
  const double queries = static_cast<double>(c.num_heads / c.num_kv_heads) * 100;
  for (int64_t l = 0; l < c.num_layers; ++l)
    for (int64_t h = 0; h < c.num_kv_heads; ++h) {
      double sum = 0;
      for (const KvCache::Page& p : cache.pages(l, h)) {
        EXPECT_GT(p.mass, 0);
        EXPECT_GT(p.key_norm, 0);
        sum += p.mass;
      }
      EXPECT_LT(sum, queries);
      EXPECT_EQ(quiet.pages(l, h)[0].mass, 0);
    }
}

TEST(CachedForward, AllAttentionIsOnSomePage) {
  Pool pool(1);
  Draws draws(test_seed(), Stream::kTest, 250);
  const TransformerConfig c = random_config(draws);
  const Transformer model = random_model(c, draws);
  const CachedModel cached(model, pool);
  KvCache cache(cached.heads(), {.page_tokens = 16, .sinks = 0});
  const PackPages pack = pack_all(std::vector<KvBits>(cached.heads().count(), KvBits{8, 8}));
  cached_logits(cached, random_text(96, c, draws), cache, pack, true);
  pack(cache);
  for (int64_t l = 0; l < c.num_layers; ++l)
    for (int64_t h = 0; h < c.num_kv_heads; ++h) {
      double sum = 0;
      for (const KvCache::Page& p : cache.pages(l, h)) sum += p.mass;
      EXPECT_NEAR(sum, 96.0 * static_cast<double>(c.num_heads / c.num_kv_heads), 0.01);
    }
}

TEST(CachedForward, GeneratesAsTheBatchedGeneratorWhereBitsSuffice) {
  Pool pool(1);
  Draws draws(test_seed(), Stream::kTest, 300);
  const TransformerConfig c = random_config(draws);
  const Transformer model = random_model(c, draws);
  const CachedModel cached(model, pool);
  GenerationRequest request{.prompt = random_text(40, c, draws), .key = 7};
  const SamplingOptions sampling{.max_tokens = 30, .temperature = 0};
  KvCache cache(cached.heads(), {.page_tokens = 16});
  const Completion mine = generate_cached(cached, request, sampling, {}, 5, cache, pack_all(std::vector<KvBits>(cached.heads().count(), KvBits{16, 16})));
  const Completion expected = Generator(model).generate({&request, 1}, sampling, {}, 5, pool).front();
  EXPECT_EQ(mine.tokens, expected.tokens);
  for (size_t i = 0; i < mine.logprobs.size(); ++i) EXPECT_NEAR(mine.logprobs[i], expected.logprobs[i], 0.05);
}

}  // namespace
}  // namespace trimtab
