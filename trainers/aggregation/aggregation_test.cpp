// Weights of rows by hand.
#include "trainers/aggregation/aggregation.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

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

}  // namespace
}  // namespace trimtab
