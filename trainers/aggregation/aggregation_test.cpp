// Weights of rows by hand.
#include "trainers/aggregation/aggregation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/random.h"
#include "trainers/ratio/policy_loss.h"

namespace trimtab {
namespace {

// Two groups; episodes of 2, 1 and 3 rows, the last row masked; episode 3 has no row that counts.
const std::vector<uint8_t> kMask{1, 1, 1, 1, 1, 0, 0};
const std::vector<int32_t> kSequence{0, 0, 1, 2, 2, 2, 3}, kGroup{0, 0, 1, 1};

std::vector<double> weights(Aggregation kind) {
  std::vector<double> w(kMask.size(), -1);
  row_weights<double>(kind, 10, kMask, kSequence, 4, kGroup, 2, w.data());
  return w;
}

TEST(Aggregation, ByHand) {
  EXPECT_EQ(weights(Aggregation::kTokenMean), (std::vector<double>{0.2, 0.2, 0.2, 0.2, 0.2, 0, 0}));
  EXPECT_EQ(weights(Aggregation::kSequenceMean),
            (std::vector<double>{1. / 6, 1. / 6, 1. / 3, 1. / 6, 1. / 6, 0, 0}));
  EXPECT_EQ(weights(Aggregation::kConstant),
            (std::vector<double>{1. / 30, 1. / 30, 1. / 30, 1. / 30, 1. / 30, 0, 0}));
  EXPECT_EQ(weights(Aggregation::kPromptMean),
            (std::vector<double>{1. / 6, 1. / 6, 1. / 6, 1. / 4, 1. / 4, 0, 0}));
}

TEST(Aggregation, MeansSumToOne) {
  for (const Aggregation kind :
       {Aggregation::kTokenMean, Aggregation::kSequenceMean, Aggregation::kPromptMean}) {
    const std::vector<double> w = weights(kind);
    EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-12);
  }
}

// DCPO's three definitions, for groups of 2 and 1 episodes that count, averaged over the 2 groups.
TEST(Aggregation, OnlyTokenMeanAsPublished) {
  EXPECT_EQ(weights(Aggregation::kOnlyTokenMean),  // sum_i 1/|o_i| sum_t
            (std::vector<double>{1. / 4, 1. / 4, 1. / 2, 1. / 4, 1. / 4, 0, 0}));
  EXPECT_EQ(weights(Aggregation::kOnlyTokenSum),  // 1/G sum_i sum_t
            (std::vector<double>{1. / 4, 1. / 4, 1. / 4, 1. / 2, 1. / 2, 0, 0}));
  EXPECT_EQ(weights(Aggregation::kTokenMean)[0], 1. / 5);  // mean over tokens
}

// Every kind, a batch cut between episodes into 1, 2 and 4 micro-batches: the same loss and, row by row, the
// same gradient, because the weights are made for the whole batch.
TEST(Aggregation, MicroBatchesAddUpToTheBatch) {
  constexpr int kEpisodes = 8, kGroups = 2;
  Draws draws(7, Stream::kTest);
  std::vector<int32_t> sequence, group;
  std::vector<int64_t> begin{0};
  for (int32_t e = 0; e < kEpisodes; ++e) {
    group.push_back(e / (kEpisodes / kGroups));
    sequence.insert(sequence.end(), 1 + draws.below(9), e);
    begin.push_back(static_cast<int64_t>(sequence.size()));
  }
  const size_t rows = sequence.size();
  std::vector<uint8_t> mask(rows);
  std::vector<double> logp(rows), old(rows), entropy(rows), advantage(rows), weight(rows);
  for (size_t r = 0; r < rows; ++r) {
    mask[r] = draws.uniform() < 0.9;
    old[r] = -1 - draws.uniform(), logp[r] = old[r] + 0.3 * draws.normal();
    entropy[r] = draws.uniform(), advantage[r] = draws.normal();
  }
  for (const Aggregation kind :
       {Aggregation::kTokenMean, Aggregation::kSequenceMean, Aggregation::kConstant, Aggregation::kPromptMean,
        Aggregation::kOnlyTokenMean, Aggregation::kOnlyTokenSum}) {
    row_weights<double>(kind, 20, mask, sequence, kEpisodes, group, kGroups, weight.data());
    for (const RatioLevel level : {RatioLevel::kToken, RatioLevel::kSequence}) {
      const PolicyLossOptions options{{ClipKind::kDual, 0.2, 0.28, 3}, 0.01, 0.1, 0, level};
      std::vector<double> gradient(rows), whole;
      for (const int parts : {1, 2, 4}) {
        PolicyLossSums sums;
        for (int p = 0; p < parts; ++p) {
          const int first = kEpisodes * p / parts, end = kEpisodes * (p + 1) / parts;
          const int64_t at = begin[first], n = begin[end] - at;
          std::vector<int64_t> local(begin.begin() + first, begin.begin() + end + 1);
          for (int64_t& b : local) b -= at;
          const PolicyRows<double> in{.rows = n,
                                      .logp = logp.data() + at,
                                      .logp_old = old.data() + at,
                                      .entropy = entropy.data() + at,
                                      .advantage = advantage.data() + at,
                                      .weight = weight.data() + at,
                                      .sequence_begin = local.data(),
                                      .num_sequences = end - first};
          std::vector<double> d_entropy(n);
          sums.add(policy_loss(in, options, gradient.data() + at, d_entropy.data()));
        }
        if (parts == 1) whole = gradient, whole.push_back(sums.loss);
        for (size_t r = 0; r < rows; ++r) EXPECT_EQ(gradient[r], whole[r]);
        EXPECT_NEAR(sums.loss, whole[rows], 1e-12);
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
