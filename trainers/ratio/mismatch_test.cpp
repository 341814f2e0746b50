// Weights of rows where sampler and trainer disagree, by their definitions.
#include "trainers/ratio/mismatch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "trainers/ratio/policy_loss.h"

namespace trimtab {
namespace {

// Two sequences of three rows; the last row of the second is masked.
struct Case {
  std::vector<int64_t> begin{0, 3, 6};
  std::vector<double> k{1, 0.4, 6, 1.2, 2.4, 1e9}, trainer, sampler, weight = std::vector<double>(6, -1);
  std::vector<uint8_t> mask{1, 1, 1, 1, 1, 0};
  MismatchSums run(const MismatchOptions& options) {
    sampler = {-1, -2, -3, -4, -5, -6};
    trainer = sampler;
    for (int i = 0; i < 6; ++i) trainer[i] += std::log(k[i]);
    return mismatch_weights<double>(options, begin, trainer.data(), sampler.data(), mask.data(),
                                    weight.data());
  }
  void expect(const std::vector<double>& want) const {
    for (int i = 0; i < 6; ++i) EXPECT_NEAR(weight[i], want[i], 1e-12) << i;
  }
};

TEST(Mismatch, IcePopKeepsTheRatioWithinItsBoundsAndDropsTheRest) {
  Case c;
  const MismatchSums sums = c.run({.kind = MismatchKind::kIcePop});
  c.expect({1, 0, 0, 1.2, 2.4, 1});
  EXPECT_NEAR(sums.masked_share(), 2.0 / 5, 1e-12);
  EXPECT_EQ(mismatch_weight({.kind = MismatchKind::kIcePop}, 0.5), 0.5);  // bounds included
  EXPECT_EQ(mismatch_weight({.kind = MismatchKind::kIcePop}, 5.0), 5.0);
}

TEST(Mismatch, TruncationBoundsTheRatioAbove) {
  Case c;
  EXPECT_EQ(c.run({.kind = MismatchKind::kTruncate}).masked, 0);
  c.expect({1, 0.4, 2, 1.2, 2, 1});
}

TEST(Mismatch, SequencesAreDroppedWhole) {
  Case c;
  EXPECT_EQ(c.run({.kind = MismatchKind::kSequenceMask}).masked, 0);
  c.expect({2.4, 2.4, 2.4, 2.88, 2.88, 1});  // the products 1 x 0.4 x 6 and 1.2 x 2.4
  c.k[4] = 2.6;
  EXPECT_EQ(c.run({.kind = MismatchKind::kSequenceMask}).masked, 2);
  c.expect({2.4, 2.4, 2.4, 0, 0, 1});
}

TEST(Mismatch, NoneOnlyMeasures) {
  Case c;
  const MismatchSums sums = c.run({});
  c.expect({1, 1, 1, 1, 1, 1});
  const double want = (std::log(1 / 0.4) + std::log(6) + std::log(1.2) + std::log(2.4)) / 5;
  EXPECT_NEAR(sums.mean(), want, 1e-12);
  EXPECT_NEAR(sums.largest, std::log(6), 1e-12);
  MismatchSums twice = sums;
  twice.add(sums);
  EXPECT_NEAR(twice.mean(), want, 1e-12);
  EXPECT_EQ(MismatchSums().mean(), 0);
}

// A dropped row loses its surrogate and keeps its divergence and entropy.
TEST(Mismatch, WeighsTheSurrogateAlone) {
  const double logp[] = {-1.0, -1.0}, old[] = {-1.2, -1.2}, entropy[] = {1, 1}, advantage[] = {1, 1},
               weight[] = {0.5, 0.5}, surrogate[] = {0, 2};
  PolicyRows<double> rows{
      .rows = 2, .logp = logp, .logp_old = old, .entropy = entropy, .advantage = advantage, .weight = weight};
  double d_logp[2], d_entropy[2];
  const PolicyLossOptions options{.clip = {ClipKind::kNone}, .entropy_coef = 0.1, .kl_coef = 0.1};
  const PolicyLossSums plain = policy_loss(rows, options, d_logp, d_entropy);
  rows.surrogate_weight = surrogate;
  const PolicyLossSums weighed = policy_loss(rows, options, d_logp, d_entropy);
  EXPECT_NEAR(weighed.surrogate, plain.surrogate, 1e-12);
  EXPECT_EQ(weighed.kl, plain.kl);
  EXPECT_EQ(d_entropy[0], d_entropy[1]);
  EXPECT_NEAR(d_logp[0], 0.5 * 0.1 * (1 - std::exp(-0.2)), 1e-12);
  EXPECT_NEAR(d_logp[1] - d_logp[0], -std::exp(0.2), 1e-12);
}

}  // namespace
}  // namespace trimtab
