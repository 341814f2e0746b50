// Log-probability, entropy and their gradient in f32 and f64 against the formulas in double, logits far apart too.
#include "kernels/token_logprob/token_logprob.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class TokenLogprobTest : public EveryTarget {};
TT_ON_EVERY_TARGET(TokenLogprobTest);

template <class T>
void expect_near_definition(int64_t vocab, double scale, double tolerance, Draws& draws) {
  const int64_t rows = 4;
  const double temperature = 0.7;
  std::vector<T> logits(rows * vocab), logp(rows), entropy(rows), lse(rows), d_logp(rows), d_entropy(rows);
  std::vector<int64_t> tokens(rows);
  for (T& z : logits) z = static_cast<T>(scale * draws.normal());
  for (int64_t r = 0; r < rows; ++r) tokens[r] = draws.below(vocab), d_logp[r] = static_cast<T>(draws.normal()), d_entropy[r] = static_cast<T>(draws.normal());
  token_logprob(TokenLogprob<T>{rows, vocab, logits.data(), temperature, tokens.data(), logp.data(), entropy.data(), lse.data()});
  std::vector<T> gradient = logits;
  token_logprob_gradient(TokenLogprobGradient<T>{rows, vocab, gradient.data(), temperature, tokens.data(), entropy.data(), lse.data(), d_logp.data(),
                                                 d_entropy.data()});
  for (int64_t r = 0; r < rows; ++r) {
    const T* z = &logits[r * vocab];
    const double top = *std::max_element(z, z + vocab);
    double total = 0, h = 0;
    for (int64_t i = 0; i < vocab; ++i) total += std::exp((z[i] - top) / temperature);
    const auto log_p = [&](int64_t i) { return (z[i] - top) / temperature - std::log(total); };
    for (int64_t i = 0; i < vocab; ++i) h -= std::exp(log_p(i)) * log_p(i);
    ASSERT_NEAR(logp[r], log_p(tokens[r]), tolerance * (1 + std::abs(log_p(tokens[r]))));
    ASSERT_NEAR(entropy[r], h, tolerance * (1 + scale));
    for (int64_t i = 0; i < vocab; ++i) {
      const double p = std::exp(log_p(i)), one = i == tokens[r] ? 1 : 0;
      ASSERT_NEAR(gradient[r * vocab + i], (d_logp[r] * (one - p) - d_entropy[r] * p * (log_p(i) + h)) / temperature, tolerance * 10 * (1 + scale));
    }
  }
}

TEST_P(TokenLogprobTest, equals_its_formulas_forward_and_backward) {
  Draws draws(test_seed(), Stream::kTest, 34);
  for (const int64_t vocab : {1, 5, 16, 61, 512})
    for (const double scale : {1.0, 60.0}) {
      expect_near_definition<double>(vocab, scale, 1e-12, draws);
      expect_near_definition<float>(vocab, scale, 3e-6, draws);
    }
}

}  // namespace
}  // namespace trimtab
