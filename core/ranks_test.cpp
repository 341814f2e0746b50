#include "core/ranks.h"

#include <gtest/gtest.h>

#include <vector>

namespace trimtab {
namespace {

TEST(OneProcess, IsItsOwnSum) {
  OneProcess ranks;
  EXPECT_EQ(ranks.size(), 1);
  EXPECT_EQ(ranks.rank(), 0);
  EXPECT_TRUE(ranks.is_main());
  std::vector<double> values = {1.5, -2};
  std::vector<float> floats = {3, 4};
  ranks.sum(values);
  ranks.sum(floats);
  ranks.broadcast(floats, 0);
  ranks.barrier();
  EXPECT_EQ(values, (std::vector<double>{1.5, -2}));
  EXPECT_EQ(floats, (std::vector<float>{3, 4}));
}

// Pieces are the branches of the sum: that is what makes two and four ranks add as one does.
TEST(Pieces, AreTheBranchesOfATreeSum) {
  for (int64_t size = 1; size < 70; ++size) {
    std::vector<float> numbers(size);
    for (int64_t i = 0; i < size; ++i) numbers[i] = 1.0f / static_cast<float>(3 * i + 1);
    const auto sum_of = [&](int64_t first, int64_t end) {
      std::vector<float> copy(numbers.begin() + first, numbers.begin() + end);
      std::vector<std::span<float>> parts;
      for (float& x : copy) parts.emplace_back(&x, 1);
      return parts.empty() ? 0.0f : tree_sum<float>(parts)[0];
    };
    for (const int64_t ranks : {1, 2, 3, 4, 6, 8}) {
      std::vector<float> of_rank;
      std::vector<std::span<float>> parts;
      int64_t next = 0;
      for (int64_t r = 0; r < ranks; ++r) {
        const auto [first, end] = piece_of(size, r, ranks);
        EXPECT_EQ(first, next) << size << " in " << ranks;
        next = end;
        of_rank.push_back(sum_of(first, end));
      }
      EXPECT_EQ(next, size);
      for (float& x : of_rank) parts.emplace_back(&x, 1);
      const float total = tree_sum<float>(parts)[0];
      if (ranks != 3 && ranks != 6) {
        EXPECT_EQ(total, sum_of(0, size)) << size << " in " << ranks;
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
