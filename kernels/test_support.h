// What tests of kernels share: every instruction set that this machine has, and random numbers.
//
//   class DenseTest : public EveryTarget {};
//   TT_ON_EVERY_TARGET(DenseTest);
//   TEST_P(DenseTest, EqualsFloat64) { ... }
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/random.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)  // as in the kernels
#include "hwy/highway.h"

namespace trimtab {

// A test runs once per target; the parameter is the only one that kernels may choose meanwhile.
class EveryTarget : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { choose(GetParam()); }
  void TearDown() override { choose(0); }

 private:
  static void choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

#define TT_ON_EVERY_TARGET(Test)                                                                      \
  INSTANTIATE_TEST_SUITE_P(On, Test, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),          \
                           [](const auto& info) { return hwy::TargetName(info.param); })

template <class T = float>
std::vector<T> random_numbers(int64_t n, Draws& draws, std::type_identity_t<T> scale = 1) {
  std::vector<T> x(n);
  for (T& value : x) value = scale * static_cast<T>(draws.normal());
  return x;
}

// What cases that also run on a device call theirs.
template <class T>
class PlainArray {
 public:
  explicit PlainArray(const std::vector<T>& host) : data_(host) {}
  T* data() { return data_.data(); }
  const std::vector<T>& host() const { return data_; }

 private:
  std::vector<T> data_;
};

}  // namespace trimtab
