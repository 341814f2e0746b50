#include "trainers/language/device_sum.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "core/thread_ranks.h"
#include "policies/language/floats.h"

namespace trimtab {
namespace {

constexpr int64_t kSize = 5 * kRankBlock + 7;

at::Tensor values_of(int rank) {
  at::Tensor out = at::empty({kSize}, at::kFloat);
  for (int64_t i = 0; i < kSize; ++i) out.data_ptr<float>()[i] = static_cast<float>((i * 7 + rank * 13) % 101) / 8;   // sums are exact
  return out;
}

TEST(DeviceSum, NeedsADeviceForEachRank) {
  EXPECT_TRUE(one_device_each({"a", "b", "c"}));
  EXPECT_FALSE(one_device_each({"a", "b", "a"})) << "NCCL takes no two ranks on one GPU";
  EXPECT_FALSE(one_device_each({"a", ""})) << "one has none";
}

TEST(DeviceSum, OnTheCpuRanksSumTheirOwnWay) {
  on_ranks(2, [](Ranks& ranks) { EXPECT_EQ(DeviceSum::open(ranks, at::kCPU), nullptr); });
  EXPECT_EQ(on_own_device(at::TensorOptions().device(at::kCPU).dtype(at::kBFloat16), one_process()).device(), at::Device(at::kCPU));
}

TEST(DeviceSum, DevicesOfAMachineAreDealtOut) {
  const auto devices = std::max<int>(1, static_cast<int>(torch::cuda::device_count()));
  on_ranks(3, [&](Ranks& ranks) {
    const at::Device own = on_own_device(at::TensorOptions().device(at::kCUDA), ranks).device();
    EXPECT_EQ(own, at::Device(at::kCUDA, static_cast<at::DeviceIndex>(ranks.local_rank() % devices)));
  });
}

// The twin of Ranks::sum_scatter: the same pieces, the same sums.
TEST(DeviceSum, SumsWhatTheCpuSums) {
  if (torch::cuda::device_count() < 2) GTEST_SKIP() << "needs two GPUs, here are " << torch::cuda::device_count();
  on_ranks(2, [](Ranks& ranks) {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(ranks.rank()));
    const auto sum = DeviceSum::open(ranks, device);
    ASSERT_NE(sum, nullptr) << "a build without NCCL?";
    const at::Tensor there = values_of(ranks.rank()).to(device), here = values_of(ranks.rank());
    sum->sum_scatter(there);
    ranks.sum_scatter(floats(here));
    const auto [first, end] = ranks.piece(kSize, ranks.rank());
    EXPECT_TRUE(at::equal(there.to(at::kCPU).slice(0, first, end), here.slice(0, first, end)));
  });
}

}  // namespace
}  // namespace trimtab
