// Adapters against their formulas in double, on every instruction set.
#include "kernels/lora/lora.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/test_support.h"
#include "kernels/lora/lora_cases.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class LoraTest : public EveryTarget {};
TT_ON_EVERY_TARGET(LoraTest);

// One head's keys and values, NaN where nothing was written.
struct Cache {
  int64_t head_dim, stride = head_dim + 3;
  std::vector<float> keys, values;
  Cache(int64_t head_dim_, int64_t most)
      : head_dim(head_dim_), keys((most + kLoraKeyBlock - 1) / kLoraKeyBlock * kLoraKeyBlock * head_dim, NAN), values(most * stride, NAN) {}
  void write(int64_t j, const std::vector<float>& key, const std::vector<float>& value) {
    for (int64_t i = 0; i < head_dim; ++i) {
      keys[j / kLoraKeyBlock * kLoraKeyBlock * head_dim + i * kLoraKeyBlock + j % kLoraKeyBlock] = key[i];
      values[j * stride + i] = value[i];
    }
  }
  LoraCache read() const { return {keys.data(), values.data(), stride}; }
};

struct CpuLora {
  bool shrink(const LoraShrink& s) const { return lora_shrink(s), true; }
  bool expand(const LoraExpand& e) const { return lora_expand(e), true; }
  bool attention(const AttentionLora& a) const { return attention_lora(a), true; }
};

TEST_P(LoraTest, RowsOfManyAdaptersEqualFloat64) {
  for (uint32_t round = 0; round < 120; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const LoraCase c = random_lora_case(draws, 200, 200, 8, round % 10 == 0 ? 90 : 9);   // segments of more rows than are looked through at once
    ASSERT_EQ(lora_mismatch<PlainArray>(c, CpuLora{}, draws), "") << "round " << round << ", " << c.rows << " rows, in " << c.in << ", out " << c.out;
  }
}

TEST_P(LoraTest, OneRow) {
  for (uint32_t round = 0; round < 100; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 1);
    LoraCase c = random_lora_case(draws, 70, 70, 1, 1);
    ASSERT_LE(c.rows, 1);
    ASSERT_EQ(lora_mismatch<PlainArray>(c, CpuLora{}, draws), "") << round;
  }
}

TEST_P(LoraTest, NaNStaysInItsRow) {
  Draws draws(test_seed(), Stream::kTest, 2);
  LoraCase c;
  do c = random_lora_case(draws, 60, 60, 4, 9);
  while (c.rows < 4 || c.row_adapter[2] < 0 || c.rank[c.row_adapter[2]] == 0 || c.in < 2);
  LoraRun<PlainArray> before(c, true);
  before.go(CpuLora{});
  c.x[2 * c.x_stride() + 1] = NAN;
  LoraRun<PlainArray> after(c, true);
  after.go(CpuLora{});
  for (int64_t r = 0; r < c.rows; ++r)
    for (int64_t o = 0; o < c.out; ++o) {
      const float y = after.y()[r * c.y_stride() + o];
      if (r == 2) ASSERT_TRUE(std::isnan(y)) << o;
      else ASSERT_EQ(y, before.y()[r * c.y_stride() + o]) << r << ", " << o;
    }
}

TEST_P(LoraTest, AttentionEqualsThatOnMaterialisedValues) {
  for (uint32_t round = 0; round < 60; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 3);
    const LoraAttentionCase c = random_lora_attention(draws, 300, 200);
    ASSERT_EQ(lora_attention_mismatch<PlainArray>(c, CpuLora{}), "") << "round " << round << ", heads of " << c.head_dim;
  }
}

// Every context up to 300, and the same kernel at rank 0 on values that were made.
TEST_P(LoraTest, AttentionAtEveryContext) {
  Draws draws(test_seed(), Stream::kTest, 4);
  const int64_t head_dim = 20, rank = 8, most = 300;
  Cache cache(head_dim, most);
  std::vector<float> made(most * head_dim);
  const std::vector<float> z = lora_numbers(most * rank, draws), b = lora_numbers(rank * head_dim, draws), q = lora_numbers(head_dim, draws, 0.5f);
  std::vector<float> out(head_dim), want(head_dim);
  for (int64_t n = 1; n <= most; ++n) {
    const std::vector<float> key = lora_numbers(head_dim, draws), value = lora_numbers(head_dim, draws);
    cache.write(n - 1, key, value);
    for (int64_t i = 0; i < head_dim; ++i) {
      double low_rank = 0;
      for (int64_t k = 0; k < rank; ++k) low_rank += double{z[(n - 1) * rank + k]} * b[k * head_dim + i];
      made[(n - 1) * head_dim + i] = static_cast<float>(value[i] + 2 * low_rank);
    }
    const LoraCache caches[] = {cache.read(), {cache.keys.data(), made.data(), head_dim}};
    const LoraQuery queries[] = {{0, rank, n, q.data(), z.data(), rank, b.data(), head_dim, 2, out.data()},
                                 {1, 0, n, q.data(), nullptr, 0, nullptr, 0, 0, want.data()}};
    attention_lora({head_dim, caches, queries, 2});
    for (int64_t i = 0; i < head_dim; ++i) ASSERT_NEAR(out[i], want[i], 2e-5 * 10) << n;   // values are about 10 at most
  }
}

TEST_P(LoraTest, AttentionKeepsToWhatAQuerySees) {
  Draws draws(test_seed(), Stream::kTest, 5);
  const int64_t head_dim = 24, length = 200, rank = 8;
  Cache written(head_dim, length);
  for (int64_t j = 0; j < length; ++j) {
    std::vector<float> key = lora_numbers(head_dim, draws), value = lora_numbers(head_dim, draws);
    if (j == 130) key[3] = NAN;
    if (j == 180) value.assign(head_dim, NAN);
    written.write(j, key, value);
  }
  const std::vector<float> z = lora_numbers(length * rank, draws), b = lora_numbers(rank * head_dim, draws), q = lora_numbers(head_dim, draws, 0.5f);
  std::vector<float> out(5 * head_dim, 1.0f);
  const LoraCache cache = written.read();
  std::vector<LoraQuery> queries;
  for (const int64_t n : {130, 0, 131, 129, 200})
    queries.push_back({0, rank, n, q.data(), z.data(), rank, b.data(), head_dim, 1, out.data() + static_cast<int64_t>(queries.size()) * head_dim});
  attention_lora({head_dim, &cache, queries.data(), 5});
  for (int64_t i = 0; i < head_dim; ++i) {
    EXPECT_TRUE(std::isfinite(out[i]) && std::isfinite(out[3 * head_dim + i])) << i;
    EXPECT_EQ(out[head_dim + i], 0);
    EXPECT_TRUE(std::isnan(out[2 * head_dim + i]) && std::isnan(out[4 * head_dim + i])) << i;
  }
}

// Scores far beyond what exp can take, and a maximum that moves in every chunk.
TEST_P(LoraTest, AttentionOfLargeScores) {
  const int64_t length = 300;
  Cache written(1, length);
  std::vector<float> z(length), out(1);
  for (int64_t j = 0; j < length; ++j) {
    written.write(j, {static_cast<float>(j)}, {static_cast<float>(j)});
    z[j] = static_cast<float>(-j);
  }
  const float b = 3;
  const LoraCache cache = written.read();
  for (const float q : {1e4f, -1e4f}) {
    const LoraQuery query{0, 1, length, &q, z.data(), 1, &b, 1, 0.5f, out.data()};
    attention_lora({1, &cache, &query, 1});
    EXPECT_FLOAT_EQ(out[0], q > 0 ? -0.5f * 299 : 0) << q;   // 299 - 0.5 * 3 * 299
  }
}

TEST(LoraDeathTest, WrongArguments) {
  const float numbers[64] = {};
  float v[64] = {};
  const LoraAdapter adapter{numbers, numbers, 8, 1};
  const int32_t which[] = {1}, none[] = {-1}, first[] = {0}, backwards[] = {1, 0};
  EXPECT_DEATH(lora_shrink({{&adapter, 1, which, nullptr, 0, 0, 1}, 1, numbers, 1, v, 8}), "row 0 has adapter 1 of 1");
  EXPECT_DEATH(lora_shrink({{&adapter, 1, first, nullptr, 0, 0, 1}, 1, numbers, 1, v, 7}), "adapter 0 of rank 8");
  EXPECT_DEATH(lora_shrink({{&adapter, 1, first, backwards, 1, 0, 1}, 1, numbers, 1, v, 8}), "segment 0 is rows 1 to 0");
  EXPECT_DEATH(lora_expand({{&adapter, 1, first, nullptr, 0, 0, 1}, 8, v, 8, v, 8, 0, 2}), "panels 0 to 2 of 8 outputs");
  lora_shrink({{&adapter, 1, none, nullptr, 0, 0, 1}, 1, numbers, 1, v, 0});
  lora_shrink({});
  const LoraCache cache{numbers, numbers, 1};
  const LoraQuery wide{0, 129, 1, numbers, numbers, 129, numbers, 1, 1, v};
  EXPECT_DEATH(attention_lora({1, &cache, &wide, 1}), "rank 129");
}

}  // namespace
}  // namespace trimtab
