// Packings side by side: 16 bits cost nothing, narrower ones more, and cross-entropy is that of the model.
#include "engine/cached_forward/kv_quality.h"

#include <gtest/gtest.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

TEST(KvQuality, SixteenBitsCostNothingAndNarrowerMore) {
  Pool pool(1);
  TransformerConfig c;
  c.vocab_size = 31, c.hidden_size = 48, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 32, c.intermediate_size = 64;
  Transformer model(c, 3);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, p] : model.parameters())
      if (p.dim() == 2) p.mul_(6);
  }
  const CachedModel cached(model, pool);
  Draws draws(test_seed(), Stream::kTest, 1);
  std::vector<int32_t> text;
  for (int i = 0; i < 200; ++i) text.push_back(static_cast<int32_t>(draws.below(31)));
  KvCacheOptions options;
  options.rotate_keys = true;
  std::vector<KvPacking> packings;
  for (const uint8_t width : {16, 8, 4, 2}) packings.push_back({options, pack_all(std::vector<KvBits>(4, KvBits{width, width}))});
  const std::vector<KvScore> scores = score_packings(cached, text, packings);
  EXPECT_EQ(scores[0].kl, 0);
  EXPECT_NEAR(scores[0].bits_per_element, 16, 1e-9);
  for (size_t i = 1; i < scores.size(); ++i) {
    EXPECT_GT(scores[i].kl, scores[i - 1].kl);
    EXPECT_LT(scores[i].bytes, scores[i - 1].bytes);
    EXPECT_EQ(scores[i].tokens, 200);
  }
  KvCache cache(cached.heads(), {.rotate_keys = true});
  CachedForward forward(cached, 32);
  double expected = 0;
  score_tokens(forward, text, cache, packings[3].pack, [&](int64_t i, std::span<const float> logits) {
    if (i + 1 == 200) return;
    double sum = 0;
    for (const float x : logits) sum += std::exp(double{x});
    expected += std::log(sum) - logits[text[i + 1]];
  });
  EXPECT_NEAR(scores[3].cross_entropy, expected / 199, 1e-6);
}

}  // namespace
}  // namespace trimtab
