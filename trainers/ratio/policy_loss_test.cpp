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
  PolicyLossSums loss(const PolicyLossOptions& options, std::vector<double>* d_logp = nullptr,
                      std::vector<double>* d_entropy = nullptr) const {
    std::vector<double> a(logp.size()), b(logp.size());
    const PolicyRows<double> rows{static_cast<int64_t>(logp.size()),
                                  logp.data(),
                                  old.data(),
                                  entropy.data(),
                                  advantage.data(),
                                  weight.data()};
    const PolicyLossSums sums = policy_loss(rows, options, d_logp ? d_logp->data() : a.data(),
                                            d_entropy ? d_entropy->data() : b.data());
    return sums;
  }
};

Batch random_batch(int rows) {
  Draws draws(test_seed(), Stream::kTest, 1);
  Batch b;
  for (int i = 0; i < rows; ++i) {
    b.old.push_back(-1.0 + draws.normal());
    b.logp.push_back(b.old.back() + 0.6 * draws.normal());
    b.entropy.push_back(draws.uniform());
    b.advantage.push_back(2 * draws.normal());
    b.weight.push_back(draws.uniform());
  }
  return b;
}

const ClipKind kKinds[] = {ClipKind::kNone, ClipKind::kSymmetric, ClipKind::kAsymmetric, ClipKind::kDual};

TEST(PolicyLoss, DerivativesMatchFiniteDifferences) {
  constexpr double kStep = 1e-6;
  for (const ClipKind kind : kKinds) {
    const PolicyLossOptions options{{kind, 0.2, 0.3, 1.8}, 0.02, 0.1, 0.07};
    Batch b = random_batch(200);
    std::vector<double> d_logp(200), d_entropy(200);
    b.loss(options, &d_logp, &d_entropy);
    for (int i = 0; i < 200; ++i) {
      for (auto [column, derivative] : {std::pair{&b.logp, &d_logp}, std::pair{&b.entropy, &d_entropy}}) {
        const double keep = (*column)[i];
        (*column)[i] = keep + kStep;
        const double up = b.loss(options).loss;
        (*column)[i] = keep - kStep;
        const double down = b.loss(options).loss;
        (*column)[i] = keep;
        EXPECT_NEAR((*derivative)[i], (up - down) / (2 * kStep), 1e-6)
            << "row " << i << " of kind " << static_cast<int>(kind);
      }
    }
  }
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
  const PolicyLossOptions options{{ClipKind::kSymmetric, 0.2, 0.2, 3}, 0.01, 0.05};
  const Batch b = random_batch(97);
  const PolicyLossSums whole = b.loss(options);
  for (const size_t parts : {2u, 4u}) {
    PolicyLossSums sum;
    for (size_t p = 0; p < parts; ++p) {
      const size_t first = 97 * p / parts, last = 97 * (p + 1) / parts;
      const auto cut = [&](const std::vector<double>& v) {
        return std::vector<double>(v.begin() + first, v.begin() + last);
      };
      sum.add(Batch{cut(b.logp), cut(b.old), cut(b.entropy), cut(b.advantage), cut(b.weight)}.loss(options));
    }
    EXPECT_NEAR(sum.loss, whole.loss, 1e-12);
    EXPECT_NEAR(sum.kl, whole.kl, 1e-12);
    EXPECT_NEAR(sum.clipped, whole.clipped, 1e-12);
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
