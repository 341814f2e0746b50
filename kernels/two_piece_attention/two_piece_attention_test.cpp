// Attention on a two-piece cache against its definition in float64, and queries that do not know of each other.
#include "kernels/two_piece_attention/two_piece_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class TwoPieceAttentionTest : public EveryTarget {};
TT_ON_EVERY_TARGET(TwoPieceAttentionTest);

// A cache of `n` keys as the kernel reads it, with NaN where nothing was written, and as a plain matrix.
struct Cache {
  std::vector<float> keys, values, plain_keys, plain_values;
  Cache(int64_t n, int64_t head_dim, Draws& draws)
      : keys(std::max<int64_t>(key_blocks_of(n), 1) * kKeyBlock * head_dim, NAN), values(std::max<int64_t>(n, 1) * padded_head_dim(head_dim), NAN),
        plain_keys(random_numbers(n * head_dim, draws)), plain_values(random_numbers(n * head_dim, draws)) {
    for (int64_t j = 0; j < n; ++j)
      write_key_value(j, head_dim, plain_keys.data() + j * head_dim, plain_values.data() + j * head_dim, keys.data(), values.data());
  }
};

std::vector<double> by_definition(const float* q, int64_t head_dim, const Cache& shared, int64_t num_shared, const Cache& own, int64_t num_own) {
  std::vector<double> score, out(head_dim, 0.0);
  const auto key = [&](int64_t j) { return j < num_shared ? shared.plain_keys.data() + j * head_dim : own.plain_keys.data() + (j - num_shared) * head_dim; };
  const auto value = [&](int64_t j) { return j < num_shared ? shared.plain_values.data() + j * head_dim : own.plain_values.data() + (j - num_shared) * head_dim; };
  for (int64_t j = 0; j < num_shared + num_own; ++j) {
    score.push_back(0);
    for (int64_t i = 0; i < head_dim; ++i) score.back() += double{q[i]} * key(j)[i];
  }
  const double most = *std::max_element(score.begin(), score.end());
  double total = 0;
  for (double& s : score) total += s = std::exp(s - most);
  for (int64_t j = 0; j < num_shared + num_own; ++j)
    for (int64_t i = 0; i < head_dim; ++i) out[i] += score[j] / total * value(j)[i];
  return out;
}

TEST_P(TwoPieceAttentionTest, EqualsItsDefinitionAndAloneEqualsTogether) {
  for (uint32_t round = 0; round < 120; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const int64_t dims[] = {1, 2, 6, 16, 24, 32, 48, 64, 80, 128, 200}, head_dim = dims[draws.below(11)], padded = padded_head_dim(head_dim);
    const int64_t n = 1 + draws.below(9), most = draws.below(4) == 0 ? 0 : 1 + draws.below(round % 5 == 0 ? 300 : 40);
    const Cache shared(most, head_dim, draws);
    std::vector<Cache> own;
    std::vector<int64_t> sees, has;
    std::vector<float> q = random_numbers(n * head_dim, draws, 0.5f), out(n * padded, NAN), alone(n * padded, NAN);
    std::vector<AttentionQuery> queries;
    for (int64_t i = 0; i < n; ++i) {
      sees.push_back(most == 0 ? 0 : draws.below(3) ? most : draws.below(static_cast<uint32_t>(most + 1)));
      has.push_back(sees[i] == 0 ? 1 + draws.below(50) : draws.below(90));
      own.emplace_back(has[i], head_dim, draws);
    }
    for (int64_t i = 0; i < n; ++i)
      queries.push_back({q.data() + i * head_dim, out.data() + i * padded, sees[i], own[i].keys.data(), own[i].values.data(), has[i]});
    const int64_t stride = attention_scores(most, 90);
    std::vector<float> scores(n * stride, NAN);
    TwoPieceAttention a{head_dim, shared.keys.data(), shared.values.data(), queries, scores.data(), stride};
    two_piece_attention(a);
    for (int64_t i = 0; i < n; ++i) {
      const auto expected = by_definition(q.data() + i * head_dim, head_dim, shared, sees[i], own[i], has[i]);
      for (int64_t k = 0; k < head_dim; ++k) ASSERT_NEAR(out[i * padded + k], expected[k], 2e-5) << "round " << round;
      for (int64_t k = head_dim; k < padded; ++k) ASSERT_EQ(out[i * padded + k], 0);
      queries[i].out = alone.data() + i * padded;
      a.queries = {&queries[i], 1};
      two_piece_attention(a);
    }
    ASSERT_EQ(out, alone) << "round " << round;
  }
}

TEST_P(TwoPieceAttentionTest, HeadsAreNormedTurnedAndScaled) {
  for (const int64_t head_dim : {2, 6, 16, 32, 40, 64, 128}) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(head_dim), 1);
    const int64_t half = head_dim / 2;
    const std::vector<float> x = random_numbers(head_dim, draws), norm = random_numbers(head_dim, draws), cosine = random_numbers(half, draws), sine = random_numbers(half, draws);
    for (const bool normed : {false, true}) {
      std::vector<float> y = x;
      prepare_head({head_dim, normed ? norm.data() : nullptr, 1e-3f, cosine.data(), sine.data(), 0.3f}, y.data());
      double sum = 0;
      for (const float value : x) sum += double{value} * value;
      const auto in = [&](int64_t i) { return normed ? x[i] / std::sqrt(sum / static_cast<double>(head_dim) + 1e-3) * norm[i] : double{x[i]}; };
      for (int64_t i = 0; i < half; ++i) {
        ASSERT_NEAR(y[i], 0.3 * (in(i) * cosine[i] - in(half + i) * sine[i]), 2e-6);
        ASSERT_NEAR(y[half + i], 0.3 * (in(half + i) * cosine[i] + in(i) * sine[i]), 2e-6);
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
