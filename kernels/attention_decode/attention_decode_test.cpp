// Decoding from packed pages against attention in float64 over what kv_unpack gives, on every instruction set.
#define HWY_WANT_AVX3_DL   // as the kernel
#include "kernels/attention_decode/attention_decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/test_support.h"
#include "kernels/kv_pack/kv_pack_cases.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class AttentionDecodeTest : public EveryTarget {};
TT_ON_EVERY_TARGET(AttentionDecodeTest);

// Pages of mixed widths, some evicted, the last one perhaps half full; and what they hold as plain numbers.
struct Cache {
  KvShape shape;
  KvQuantiser quantiser;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<KvPage> pages;
  std::vector<float> keys, values;   // [n, head_dim]
  int64_t size() const { return static_cast<int64_t>(keys.size()) / shape.head_dim; }
};

Cache random_cache(Draws& draws, int64_t most_pages) {
  Cache out;
  out.shape = random_kv_shape(draws), out.quantiser = random_quantiser(out.shape, draws);
  const int64_t n = 1 + draws.below(static_cast<uint32_t>(most_pages));
  for (int64_t p = 0; p < n; ++p) {
    PackCase c = random_pack_case(draws, out.shape, out.quantiser);
    for (float& x : c.keys) x /= std::max(1.0f, c.largest_key / 4);   // so that not one key takes all
    KvPage page{nullptr, c.bits, static_cast<int32_t>(out.shape.tokens), 0};
    if (p + 1 == n && draws.below(2) == 0) {
      page.bits = c.bits = {}, page.tokens = 1 + static_cast<int32_t>(draws.below(static_cast<uint32_t>(out.shape.tokens)));
      c.page.assign(kv_layout(c.shape, c.quantiser, c.bits).bytes, 0);
    }
    page.value_error = c.pack().value_error;
    std::vector<float> keys(c.keys.size()), values(c.values.size());
    kv_unpack({c.shape, c.quantiser, c.bits, c.page.data(), keys.data(), values.data(), c.shape.head_dim});
    out.bytes.push_back(std::move(c.page));
    page.data = out.bytes.back().data();
    if (n > 1 && p == 0 && draws.below(4) == 0) page = {nullptr, {0, 0}, 0, 0};
    else {
      out.keys.insert(out.keys.end(), keys.begin(), keys.begin() + page.tokens * out.shape.head_dim);
      out.values.insert(out.values.end(), values.begin(), values.begin() + page.tokens * out.shape.head_dim);
    }
    out.pages.push_back(page);
  }
  return out;
}

struct Reference {
  std::vector<double> weights, out;
};
Reference by_definition(const float* q, const Cache& c) {
  const int64_t d = c.shape.head_dim, n = c.size();
  Reference r{std::vector<double>(n), std::vector<double>(d)};
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < d; ++i) r.weights[j] += double{q[i]} * c.keys[j * d + i];
  const double most = *std::max_element(r.weights.begin(), r.weights.end());
  double total = 0;
  for (double& w : r.weights) total += w = std::exp(w - most);
  for (int64_t j = 0; j < n; ++j) {
    r.weights[j] /= total;
    for (int64_t i = 0; i < d; ++i) r.out[i] += r.weights[j] * c.values[j * d + i];
  }
  return r;
}

struct Queries {
  std::vector<std::vector<float>> q;
  std::vector<const float*> queries;
  std::vector<float> out, weights;
  std::vector<AttentionState> states;
  Queries(const Cache& c, int64_t n, Draws& draws) : out(n * c.shape.head_dim), states(n) {
    for (int64_t i = 0; i < n; ++i) q.push_back(random_numbers(c.shape.head_dim, draws, 2 / std::sqrt(static_cast<float>(c.shape.head_dim))));
    for (int64_t i = 0; i < n; ++i) queries.push_back(q[i].data()), states[i].out = out.data() + i * c.shape.head_dim;
    weights.resize(n * attention_weights(static_cast<int64_t>(c.pages.size()), c.shape));
  }
  AttentionDecode call(const Cache& c, std::span<const KvPage> pages, bool keep = false) {
    return {c.shape, c.quantiser, pages, queries, states, keep ? weights.data() : nullptr,
            keep ? attention_weights(static_cast<int64_t>(c.pages.size()), c.shape) : 0};
  }
};

// Softmax weights to about 13 bits of the scores' and 12 of the weights' largest part.
double tolerance(const Cache& c) {
  double most = 0;
  for (const float v : c.values) most = std::max(most, std::abs(double{v}));
  return 2e-3 * most;
}

TEST_P(AttentionDecodeTest, EqualsItsDefinition) {
  double worst = 0;
  for (uint32_t round = 0; round < 60; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const Cache c = random_cache(draws, round % 10 == 0 ? 12 : 4);
    const int64_t n = 1 + draws.below(9), d = c.shape.head_dim;
    Queries run(c, n, draws);
    begin_attention(run.states, d);
    attention_decode(run.call(c, c.pages));
    finish_attention(run.states, d);
    for (int64_t q = 0; q < n; ++q) {
      const Reference r = by_definition(run.queries[q], c);
      for (int64_t i = 0; i < d; ++i) {
        worst = std::max(worst, std::abs(run.out[q * d + i] - r.out[i]) / tolerance(c));
        ASSERT_NEAR(run.out[q * d + i], r.out[i], tolerance(c)) << "round " << round << ", query " << q << " of " << n;
      }
    }
  }
  RecordProperty("worst_over_tolerance", std::to_string(worst));
}

// Rows of f16 alone are f32 arithmetic.
TEST_P(AttentionDecodeTest, SixteenBitsAreExactToRounding) {
  for (uint32_t round = 0; round < 20; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 1);
    Cache c;
    c.shape = random_kv_shape(draws);
    PackCase page = random_pack_case(draws, c.shape, c.quantiser);
    page.bits = {}, page.keys = random_numbers(static_cast<int64_t>(page.keys.size()), draws), page.values = random_numbers(static_cast<int64_t>(page.values.size()), draws);
    page.page.assign(kv_layout(c.shape, c.quantiser, {}).bytes, 0), page.pack();
    const int32_t tokens = 1 + static_cast<int32_t>(draws.below(static_cast<uint32_t>(c.shape.tokens)));
    c.pages = {{page.page.data(), {}, tokens, 0}};
    kv_unpack({c.shape, c.quantiser, {}, page.page.data(), page.keys.data(), page.values.data(), c.shape.head_dim});
    c.keys.assign(page.keys.begin(), page.keys.begin() + tokens * c.shape.head_dim), c.values.assign(page.values.begin(), page.values.begin() + tokens * c.shape.head_dim);
    Queries run(c, 5, draws);
    begin_attention(run.states, c.shape.head_dim);
    attention_decode(run.call(c, c.pages));
    finish_attention(run.states, c.shape.head_dim);
    for (int64_t q = 0; q < 5; ++q) {
      const Reference r = by_definition(run.queries[q], c);
      for (int64_t i = 0; i < c.shape.head_dim; ++i) ASSERT_NEAR(run.out[q * c.shape.head_dim + i], r.out[i], 2e-5);
    }
  }
}

TEST_P(AttentionDecodeTest, SplitOverKeysMergesToTheSame) {
  for (uint32_t round = 0; round < 20; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 2);
    const Cache c = random_cache(draws, 12);
    const int64_t d = c.shape.head_dim;
    Queries whole(c, 3, draws), parts = whole;
    for (int64_t i = 0; i < 3; ++i) parts.queries[i] = parts.q[i].data(), parts.states[i].out = parts.out.data() + i * d;
    begin_attention(whole.states, d), attention_decode(whole.call(c, c.pages)), finish_attention(whole.states, d);
    std::vector<float> merged(3 * d);
    std::vector<AttentionState> into(3);
    for (int64_t i = 0; i < 3; ++i) into[i].out = merged.data() + i * d;
    begin_attention(into, d);
    for (size_t first = 0; first < c.pages.size();) {
      const size_t count = std::min<size_t>(c.pages.size() - first, 1 + draws.below(4));
      begin_attention(parts.states, d), attention_decode(parts.call(c, std::span(c.pages).subspan(first, count)));
      for (int64_t i = 0; i < 3; ++i) merge_attention(parts.states[i], d, into[i]);
      first += count;
    }
    finish_attention(into, d);
    for (size_t i = 0; i < merged.size(); ++i) ASSERT_NEAR(merged[i], whole.out[i], tolerance(c)) << round;
  }
}

TEST_P(AttentionDecodeTest, StatisticsAreThoseOfTheWeights) {
  for (uint32_t round = 0; round < 20; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 3);
    const Cache c = random_cache(draws, 8);
    const int64_t n = 1 + draws.below(5), keys = c.size(), pages = static_cast<int64_t>(c.pages.size());
    Queries run(c, n, draws);
    begin_attention(run.states, c.shape.head_dim);
    const AttentionDecode call = run.call(c, c.pages, true);
    attention_decode(call);
    std::vector<float> mass(keys), page_mass(pages), page_error(pages), squares(n);
    attention_statistics(call, {mass.data(), page_mass.data(), page_error.data(), squares.data()});
    std::vector<double> expected(keys), by_page(pages);
    for (int64_t q = 0; q < n; ++q) {
      const Reference r = by_definition(run.queries[q], c);
      double sum = 0;
      for (int64_t j = 0; j < keys; ++j) expected[j] += r.weights[j], sum += r.weights[j] * r.weights[j];
      EXPECT_NEAR(squares[q], sum, 1e-2 * sum + 1e-6);
    }
    int64_t key = 0;
    for (int64_t p = 0; p < pages; ++p) {
      for (int64_t t = 0; t < c.pages[p].tokens; ++t, ++key) {
        ASSERT_NEAR(mass[key], expected[key], 5e-3 * n) << round;
        by_page[p] += mass[key];
      }
      EXPECT_NEAR(page_mass[p], by_page[p], 1e-4 * n);
      EXPECT_NEAR(page_error[p], by_page[p] * c.pages[p].value_error, 1e-4 * n);
    }
  }
}

TEST_P(AttentionDecodeTest, ANaNQueryHarmsItselfAloneAndNoKeysGiveZeros) {
  Draws draws(test_seed(), Stream::kTest, 9);
  const Cache c = random_cache(draws, 4);
  const int64_t d = c.shape.head_dim;
  Queries run(c, 3, draws);
  run.q[1][d / 2] = NAN;
  begin_attention(run.states, d), attention_decode(run.call(c, c.pages)), finish_attention(run.states, d);
  for (int64_t i = 0; i < d; ++i) EXPECT_TRUE(std::isfinite(run.out[i]) && std::isnan(run.out[d + i]) && std::isfinite(run.out[2 * d + i])) << i;
  Queries none(c, 2, draws);
  begin_attention(none.states, d), attention_decode(none.call(c, {})), finish_attention(none.states, d);
  EXPECT_EQ(none.out, std::vector<float>(2 * d, 0.0f));
}

}  // namespace
}  // namespace trimtab
