// A packed cache against attention over what its pages unpack to; options and numbers that it refuses.
#include "engine/kv_cache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/test_support.h"
#include "engine/kv_cache/kv_cache_cases.h"

namespace trimtab {
namespace {

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
