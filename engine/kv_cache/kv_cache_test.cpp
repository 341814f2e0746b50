// A cache of 16 bits against the Transformer's own logits, packed caches against attention over what they unpack to, and what a cache
// holds: bytes, widths, errors.
#include "engine/kv_cache/kv_cache.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "engine/kv_cache/cached_forward.h"
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
  const torch::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(8);   // far from uniform attention
  return model;
}

std::vector<int32_t> random_text(int64_t length, const TransformerConfig& c, Draws& draws) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(c.vocab_size))));
  return ids;
}

KvCacheOptions random_options(Draws& draws) {
  KvCacheOptions o;
  o.page_tokens = 16 * (1 + draws.below(2)), o.sinks = draws.below(3) == 0 ? 0 : 1 + draws.below(9);
  o.key_groups = draws.below(2) == 0 ? "channel" : "token", o.symmetric = draws.below(3) == 0;
  o.key_norm = o.key_groups == "channel" && draws.below(3) == 0, o.value_channel_scale = draws.below(3) == 0;
  o.rotate_keys = draws.below(2) == 0, o.rotate_values = draws.below(2) == 0;
  return o;
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
  const torch::NoGradGuard no_grad;
  const at::Tensor tokens = torch::tensor(std::vector<int64_t>(text.begin(), text.end()));
  Trie trie;
  trie.add(-1, static_cast<int64_t>(text.size()));
  return model.logits(tokens, trie);
}

TEST(KvCache, SixteenBitsGiveTheModelsLogits) {
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
TEST(KvCache, NarrowerIsFurtherAndEvictionForgets) {
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

// What attention sees is what kv_unpack says: the packed cache equals a 16-bit cache that is given the unpacked numbers.
TEST(KvCache, AttendsToWhatItsPagesUnpackTo) {
  for (uint32_t round = 0; round < 30; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 2);
    const KvHeads heads{1, 1, 32};
    KvCacheOptions o = random_options(draws);
    o.rotate_keys = o.rotate_values = false;
    KvCache cache(heads, o);
    const uint8_t widths[] = {8, 4, 2};
    std::vector<float> keys, values;   // as they are held: [tokens, 32]
    const int64_t n = 20 + draws.below(100);
    std::vector<float> q(32), out(32);
    for (int64_t t = 0; t < n; ++t) {
      if (cache.full()) {
        cache.pack(std::vector<KvBits>{{widths[draws.below(3)], widths[draws.below(3)]}});
        if (draws.below(2) == 0) {
          const int64_t p = draws.below(static_cast<uint32_t>(cache.num_pages()));
          const KvBits now = cache.pages(0, 0)[p].bits;
          cache.demote(0, 0, p, {static_cast<uint8_t>(std::max(2, now.key / 2)), now.value});
        }
      }
      std::vector<float> key(32), value(32);
      for (int i = 0; i < 32; ++i) key[i] = static_cast<float>(draws.normal()), value[i] = static_cast<float>(draws.normal()), q[i] = 0.4f * static_cast<float>(draws.normal());
      cache.write(0, 0, 0, key.data(), value.data());
      for (int i = 0; i < 32; ++i) keys.push_back(key[i]), values.push_back(value[i]);
      cache.attend(0, 0, {1, 1, q.data(), 32, 32, out.data(), 32, 32});
      cache.commit(1);
    }
    for (const KvCache::Page& p : cache.pages(0, 0))
      kv_unpack({{32, o.page_tokens}, o.quantiser(), p.bits, p.data(), keys.data() + p.first_token * 32, values.data() + p.first_token * 32, 32});
    std::vector<double> weights(n), expected(32);
    double total = 0;
    for (int64_t t = 0; t < n; ++t) {
      double score = 0;
      for (int i = 0; i < 32; ++i) score += double{q[i]} * keys[t * 32 + i];
      total += weights[t] = std::exp(score);
    }
    for (int64_t t = 0; t < n; ++t)
      for (int i = 0; i < 32; ++i) expected[i] += weights[t] / total * values[t * 32 + i];
    for (int i = 0; i < 32; ++i) ASSERT_NEAR(out[i], expected[i], 8e-3) << "round " << round;
  }
}

TEST(KvCache, TracksWhereAttentionGoes) {
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

TEST(KvCache, GeneratesAsTheBatchedGeneratorWhereBitsSuffice) {
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

TEST(KvCache, BadOptionsAndNumbersAreNamed) {
  EXPECT_THROW(KvCache({1, 1, 24}, {}), ConfigError);
  EXPECT_THROW(KvCache({1, 1, 48}, {.rotate_keys = true}), ConfigError);
  EXPECT_THROW(KvCache({1, 1, 64}, {.page_tokens = 40}), ConfigError);
  EXPECT_THROW(KvCache({1, 1, 64}, {.key_groups = "token", .key_norm = true}), ConfigError);
  KvCache cache({2, 1, 16}, {});
  std::vector<float> good(16, 1), bad(16, 1);
  bad[3] = INFINITY;
  try {
    cache.write(1, 0, 0, good.data(), bad.data());
    FAIL();
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find("layer 1, KV head 0"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace trimtab
