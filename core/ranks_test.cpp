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

}  // namespace
}  // namespace trimtab
