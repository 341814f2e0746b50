// The clipped surrogate: values by definition, derivatives by finite differences, both in float64.
#include "trainers/ratio/policy_loss.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/random.h"

namespace trimtab {
namespace {

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

struct Batch {
  std::vector<double> logp, old, entropy, advantage, weight;
  std::vector<double> reference = {}, surrogate_weight = {};  // empty: none
  std::vector<int64_t> sequence_begin = {};
  PolicyLossSums loss(const PolicyLossOptions& options, std::vector<double>* d_logp = nullptr,
                      std::vector<double>* d_entropy = nullptr) const {
    std::vector<double> a(logp.size()), b(logp.size());
    const PolicyRows<double> rows{
        .rows = static_cast<int64_t>(logp.size()),
        .logp = logp.data(),
        .logp_old = old.data(),
        .entropy = entropy.data(),
        .advantage = advantage.data(),
        .weight = weight.data(),
        .logp_ref = reference.empty() ? nullptr : reference.data(),
        .surrogate_weight = surrogate_weight.empty() ? nullptr : surrogate_weight.data(),
        .sequence_begin = sequence_begin.data(),
        .num_sequences = std::max<int64_t>(static_cast<int64_t>(sequence_begin.size()) - 1, 0)};
    const PolicyLossSums sums = policy_loss(rows, options, d_logp ? d_logp->data() : a.data(),
                                            d_entropy ? d_entropy->data() : b.data());
    return sums;
  }
};

Batch random_batch(int rows, double spread = 0.6) {
  Draws draws(test_seed(), Stream::kTest, 1);
  Batch b;
  for (int i = 0; i < rows; ++i) {
    b.old.push_back(-1.0 + draws.normal());
    b.logp.push_back(b.old.back() + spread * draws.normal());
    b.entropy.push_back(draws.uniform());
    b.advantage.push_back(2 * draws.normal());
    b.weight.push_back(draws.uniform());
    b.reference.push_back(b.old.back() + 0.5 * draws.normal());
    b.surrogate_weight.push_back(2 * draws.uniform());
  }
  return b;
}

const ClipKind kKinds[] = {ClipKind::kNone, ClipKind::kSymmetric, ClipKind::kAsymmetric, ClipKind::kDual,
                           ClipKind::kDynamic};

// Both derivatives of every row against central differences.
void expect_derivatives(Batch b, const PolicyLossOptions& options) {
  constexpr double kStep = 1e-6;
  const size_t rows = b.logp.size();
  std::vector<double> d_logp(rows), d_entropy(rows);
  b.loss(options, &d_logp, &d_entropy);
  for (size_t i = 0; i < rows; ++i) {
    for (auto [column, derivative] : {std::pair{&b.logp, &d_logp}, std::pair{&b.entropy, &d_entropy}}) {
      const double keep = (*column)[i];
      (*column)[i] = keep + kStep;
      const double up = b.loss(options).loss;
      (*column)[i] = keep - kStep;
      const double down = b.loss(options).loss;
      (*column)[i] = keep;
      EXPECT_NEAR((*derivative)[i], (up - down) / (2 * kStep), 1e-6)
          << "row " << i << " of kind " << static_cast<int>(options.clip.kind);
    }
  }
}

TEST(PolicyLoss, DerivativesMatchFiniteDifferences) {
  for (const ClipKind kind : kKinds)
    expect_derivatives(random_batch(200), {{kind, 0.2, 0.3, 1.8}, 0.02, 0.1, 0.07});
}

// Ragged sequences, one of them with a masked row, one without any other, one empty.
Batch sequences() {
  Batch b = random_batch(60, 0.3);
  b.sequence_begin = {0, 1, 8, 20, 20, 21, 45, 60};
  b.weight[3] = b.weight[20] = 0;
  return b;
}

TEST(SequenceRatio, DerivativesMatchFiniteDifferences) {
  for (const ClipKind kind : {ClipKind::kNone, ClipKind::kSymmetric, ClipKind::kAsymmetric, ClipKind::kDual})
    expect_derivatives(sequences(), {{kind, 0.05, 0.08, 1.1}, 0.02, 0.1, 0.07, RatioLevel::kSequence});
}

TEST(PlainPolicyGradient, DerivativesMatchFiniteDifferencesAndTheSamplerDoesNotMatter) {
  const PolicyLossOptions options{.clip = {ClipKind::kNone}, .entropy_coef = 0.02, .level = RatioLevel::kNone};
  Batch b = random_batch(60, 0.3);
  expect_derivatives(b, options);
  const double loss = b.loss(options).loss;
  for (auto& old : b.old) old = -50;
  EXPECT_EQ(b.loss(options).loss, loss);
}

TEST(SequenceRatio, IsTheGeometricMeanOfTheRows) {
  const PolicyLossOptions options{.clip = {ClipKind::kNone}, .level = RatioLevel::kSequence};
  const Batch b{.logp = {-1, -2, -3},
                .old = {-1.1, -2.3, -3.2},
                .entropy = {0, 0, 0},
                .advantage = {2, 2, 2},
                .weight = {0.5, 0.25, 0.25},
                .sequence_begin = {0, 3}};
  EXPECT_NEAR(b.loss(options).loss, -2 * std::exp((0.1 + 0.3 + 0.2) / 3), 1e-12);
}

// With one advantage and one weight per sequence, GSPO-token has the value and the gradient of GSPO.
TEST(SequenceRatio, OfTokensAgreesWhereAdvantagesAreEqual) {
  Batch b = sequences();
  b.surrogate_weight.clear();
  for (size_t s = 0; s + 1 < b.sequence_begin.size(); ++s) {
    for (int64_t i = b.sequence_begin[s]; i < b.sequence_begin[s + 1]; ++i) {
      b.advantage[i] = s % 2 ? 1.5 : -0.5;
      if (b.weight[i] != 0) b.weight[i] = 0.1 + 0.1 * static_cast<double>(s);
    }
  }
  std::vector<double> whole(60), token(60);
  const PolicyLossOptions gspo{.clip = {ClipKind::kAsymmetric, 0.05, 0.08}, .level = RatioLevel::kSequence};
  PolicyLossOptions of_tokens = gspo;
  of_tokens.level = RatioLevel::kSequenceToken;
  EXPECT_DOUBLE_EQ(b.loss(gspo, &whole).loss, b.loss(of_tokens, &token).loss);
  for (int i = 0; i < 60; ++i) EXPECT_NEAR(whole[i], token[i], 1e-12) << i;
  b.advantage[10] = 7;  // a row of its own mind moves its own gradient alone
  std::vector<double> moved(60);
  b.loss({.clip = {ClipKind::kNone}, .level = RatioLevel::kSequenceToken}, &moved);
  b.advantage[10] = -7;
  std::vector<double> back(60);
  b.loss({.clip = {ClipKind::kNone}, .level = RatioLevel::kSequenceToken}, &back);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(moved[i] == back[i], i != 10) << i;
}

TEST(SequenceRatio, SequencesOfOneRowAreTokens) {
  Batch b = random_batch(40);
  for (int i = 0; i <= 40; ++i) b.sequence_begin.push_back(i);
  const ClipOptions clip{ClipKind::kDual, 0.2, 0.28, 1.5};
  std::vector<double> token(40), sequence(40);
  const double by_token = b.loss({clip, 0.01, 0.1, 0.1}, &token).loss;
  EXPECT_NEAR(b.loss({clip, 0.01, 0.1, 0.1, RatioLevel::kSequence}, &sequence).loss, by_token, 1e-12);
  for (int i = 0; i < 40; ++i) EXPECT_NEAR(token[i], sequence[i], 1e-12);
}

// DCPO's bounds by its formulas, for the paper's epsilons and for those of the released script.
TEST(Clip, DynamicBoundsOfDcpo) {
  const double q[] = {0.9, 0.5, 0.1, 0.01, 0.001};
  const double paper[][2] = {{0.769, 1.187}, {0.5, 1.306}, {0.5, 2.0}, {0.5, 5.0}, {0.5, 10}};
  const double script[][2] = {{0.667, 1.249}, {0.5, 1.4}, {0.5, 2.246}, {0.5, 5.815}, {0.5, 10}};
  for (int i = 0; i < 5; ++i) {
    const RatioBounds<double> a = dynamic_bounds(std::log(q[i]), {ClipKind::kDynamic, 0.16, 0.20, 10});
    EXPECT_NEAR(a.low, paper[i][0], 5e-4) << q[i];
    EXPECT_NEAR(a.high, paper[i][1], 5e-4) << q[i];
    const RatioBounds<double> b = dynamic_bounds(std::log(q[i]), {ClipKind::kDynamic, 0.20, 0.28, 10});
    EXPECT_NEAR(b.low, script[i][0], 5e-4) << q[i];
    EXPECT_NEAR(b.high, script[i][1], 5e-4) << q[i];
  }
  // The bounds solve |(p / q - 1) p| = epsilon with p = r q.
  const RatioBounds<double> r = dynamic_bounds(std::log(0.9), {ClipKind::kDynamic, 0.16, 0.20, 10});
  EXPECT_NEAR((1 - r.low) * r.low * 0.9, 0.16, 1e-12);
  EXPECT_NEAR((r.high - 1) * r.high * 0.9, 0.20, 1e-12);
  EXPECT_EQ(dynamic_bounds(-1000.0, {ClipKind::kDynamic, 0.16, 0.20, 12}).high, 12);  // a dual bound above 10
  EXPECT_EQ(dynamic_bounds(-1000.0f, {ClipKind::kDynamic, 0.16, 0.20, 10}).low, 0.5f);
}

TEST(Clip, OnlyBoundsThatBiteAreCounted) {
  const ClipOptions dual{ClipKind::kDual, 0.2, 0.28, 3};
  const auto of = [&](double ratio, double advantage) {
    return clipped_surrogate(ratio, advantage, dual).clipped;
  };
  EXPECT_EQ(of(0.5, -1), Clipped::kLow);
  EXPECT_EQ(of(0.5, 1), Clipped::kNo);
  EXPECT_EQ(of(1.5, 1), Clipped::kHigh);
  EXPECT_EQ(of(1.5, -1), Clipped::kNo);
  EXPECT_EQ(of(3.5, -1), Clipped::kDual);
  EXPECT_EQ(of(0.5, 0), Clipped::kNo);
  const std::vector<double> zeros(4, 0.0);
  const Batch b{.logp = {std::log(0.5), std::log(1.5), std::log(4.0), 0},
                .old = zeros,
                .entropy = zeros,
                .advantage = {-1, 1, -1, 1},
                .weight = {0.1, 0.2, 0.3, 0.4}};
  const PolicyLossSums sums = b.loss({dual});
  EXPECT_DOUBLE_EQ(sums.clipped_low, 0.1);
  EXPECT_DOUBLE_EQ(sums.clipped_high, 0.2);
  EXPECT_DOUBLE_EQ(sums.clipped_dual, 0.3);
  EXPECT_DOUBLE_EQ(sums.clipped, 0.6);
}

TEST(PolicyLoss, ReferenceDivergenceIsK3) {
  EXPECT_EQ(k3(0.0).value, 0);
  EXPECT_EQ(k3(0.0).slope, 0);
  Batch b{.logp = {-1}, .old = {-1}, .entropy = {0}, .advantage = {0}, .weight = {1}, .reference = {-1.5}};
  const PolicyLossSums sums = b.loss({.clip = {}, .reference_coef = 0.1});
  EXPECT_NEAR(sums.reference_kl, std::exp(-0.5) + 0.5 - 1, 1e-12);
  EXPECT_NEAR(sums.loss, 0.1 * sums.reference_kl, 1e-12);
  EXPECT_EQ(sums.kl, 0);
  b.reference.clear();
  EXPECT_EQ(b.loss({.clip = {}, .reference_coef = 0.1}).loss, 0);
}

TEST(PolicyLoss, ValuesByDefinition) {
  const ClipOptions symmetric{ClipKind::kSymmetric, 0.2, 9, 3},
      asymmetric{ClipKind::kAsymmetric, 0.2, 0.5, 3}, dual{ClipKind::kDual, 0.2, 0.5, 3};
  EXPECT_DOUBLE_EQ(clipped_surrogate(1.4, 2.0, symmetric).loss, -2.4);
  EXPECT_DOUBLE_EQ(clipped_surrogate(1.4, 2.0, asymmetric).loss, -2.8);
  EXPECT_DOUBLE_EQ(clipped_surrogate(1.7, 2.0, asymmetric).loss, -3.0);
  EXPECT_DOUBLE_EQ(clipped_surrogate(0.5, -1.0, symmetric).loss, 0.8);
  EXPECT_DOUBLE_EQ(clipped_surrogate(5.0, -1.0, symmetric).loss,
                   5.0);  // a bad action made likelier is not clipped
  EXPECT_DOUBLE_EQ(clipped_surrogate(5.0, -1.0, dual).loss, 3.0);
  EXPECT_EQ(clipped_surrogate(5.0, -1.0, dual).d_ratio, 0.0);
  EXPECT_EQ(clipped_surrogate(1.4, 2.0, symmetric).d_ratio, 0.0);
  EXPECT_DOUBLE_EQ(clipped_surrogate(1.4, -2.0, symmetric).d_ratio, 2.0);
}

TEST(PolicyLoss, SumsOfAnySplitAreTheWhole) {
  const PolicyLossOptions options{{ClipKind::kDual, 0.2, 0.2, 1.5}, 0.01, 0.05, 0.1};
  const Batch b = random_batch(97);
  const PolicyLossSums whole = b.loss(options);
  for (const size_t parts : {2u, 4u}) {
    PolicyLossSums sum;
    for (size_t p = 0; p < parts; ++p) {
      const size_t first = 97 * p / parts, last = 97 * (p + 1) / parts;
      const auto cut = [&](const std::vector<double>& v) {
        return std::vector<double>(v.begin() + first, v.begin() + last);
      };
      sum.add(Batch{cut(b.logp), cut(b.old), cut(b.entropy), cut(b.advantage), cut(b.weight),
                    cut(b.reference), cut(b.surrogate_weight)}
                  .loss(options));
    }
    EXPECT_NEAR(sum.loss, whole.loss, 1e-12);
    EXPECT_NEAR(sum.kl, whole.kl, 1e-12);
    EXPECT_NEAR(sum.reference_kl, whole.reference_kl, 1e-12);
    EXPECT_NEAR(sum.clipped, whole.clipped, 1e-12);
    EXPECT_NEAR(sum.clipped, sum.clipped_low + sum.clipped_high + sum.clipped_dual, 1e-12);
  }
}

// Pendulum, update 181: a deviation of 0.3 and an action that the moved mean leaves more than 88 nats behind.
TEST(PolicyLoss, FarActionsGiveFiniteGradientsInSinglePrecision) {
  const std::vector<float> advantage = {1, 0, -1}, entropy(3, 0.2f), weight(3, 1.0f), old(3, -6.0f);
  for (const float moved : {-1000.0f, -100.0f, 100.0f, 1000.0f}) {
    const std::vector<float> logp(3, old[0] + moved);
    const PolicyRows<float> rows{3, logp.data(), old.data(), entropy.data(), advantage.data(), weight.data()};
    for (const ClipKind kind : kKinds) {
      for (const double kl_coef : {0.0, 0.1}) {
        float d_logp[3], d_entropy[3];
        const PolicyLossSums sums =
            policy_loss(rows, {{kind, 0.2, 0.3, 1.8}, 0.01, kl_coef}, d_logp, d_entropy);
        EXPECT_TRUE(std::isfinite(sums.loss) && std::isfinite(sums.kl)) << moved;
        for (const float d : d_logp) EXPECT_TRUE(std::isfinite(d)) << moved;
        if (kl_coef == 0) {
          EXPECT_EQ(d_logp[1], 0) << moved;
        } else {  // the divergence still pulls the probabilities together
          EXPECT_GT(d_logp[1] * moved, 0) << moved;
        }
      }
    }
  }
}

TEST(PolicyLoss, DerivativesMatchFiniteDifferencesBeyondTheBound) {
  constexpr double kStep = 1e-3;
  for (const ClipKind kind : kKinds) {
    for (const double moved : {-50.0, -21.0, -19.0, 19.0, 21.0, 50.0}) {
      for (const double advantage : {-1.5, 1.5}) {
        const PolicyLossOptions options{{kind, 0.2, 0.3, 1.8}, 0, 0.1};
        const auto at = [&](double logp) { return Batch{{logp}, {0}, {0}, {advantage}, {1}}; };
        std::vector<double> d_logp(1);
        at(moved).loss(options, &d_logp);
        const double slope =
            (at(moved + kStep).loss(options).loss - at(moved - kStep).loss(options).loss) / (2 * kStep);
        EXPECT_NEAR(d_logp[0], slope, 1e-6 * std::max(1.0, std::abs(slope))) << moved;
      }
    }
  }
}

TEST(PolicyLoss, MaskedRowsMayHoldAnything) {
  Batch b = random_batch(3);
  b.weight[1] = 0;
  const double before = b.loss({}).loss;
  b.logp[1] = std::nan("");
  EXPECT_EQ(b.loss({}).loss, before);
}

}  // namespace
}  // namespace trimtab
