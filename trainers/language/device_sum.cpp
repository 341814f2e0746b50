#include "trainers/language/device_sum.h"

#include <torch/cuda.h>

#include <set>

#include "core/error.h"
#include "core/launch.h"

#ifdef TRIMTAB_NCCL
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/rank_sum/rank_sum_cuda.h"
#endif

namespace trimtab {

at::TensorOptions on_own_device(at::TensorOptions compute, const Ranks& ranks) {
  if (!compute.device().is_cuda()) return compute;
  const auto devices = static_cast<int>(torch::cuda::device_count());
  return compute.device(at::kCUDA, static_cast<at::DeviceIndex>(devices > 0 ? ranks.local_rank() % devices : 0));
}

bool one_device_each(const std::vector<std::string>& devices) {
  const std::set<std::string> different(devices.begin(), devices.end());
  return different.size() == devices.size() && !different.contains("");
}

#ifndef TRIMTAB_NCCL

std::unique_ptr<DeviceSum> DeviceSum::open(Ranks&, const at::Device&) { return nullptr; }

#else

namespace {

class NcclSum final : public DeviceSum {
 public:
  NcclSum(Ranks& ranks, const at::Device& device, const std::string& id) : ranks_(ranks), device_(device) {
    const c10::cuda::CUDAGuard guard(device_);
    check(rank_sum_open(&sum_, id.data(), ranks.rank(), ranks.size(), rank_timeout_s()), "the start of NCCL");
  }
  ~NcclSum() override { rank_sum_close(sum_); }
  void sum_scatter(const at::Tensor& values) override {
    TT_CHECK(values.is_contiguous() && values.scalar_type() == at::kFloat && values.device() == device_);
    const c10::cuda::CUDAGuard guard(device_);
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream(device_.index()).stream();
    std::vector<int64_t> begin;
    for (int r = 0; r < ranks_.size(); ++r) begin.push_back(ranks_.piece(values.numel(), r).first);
    begin.push_back(values.numel());
    const std::string what = fmt::format("a sum of {} numbers on GPUs", values.numel());
    check(rank_sum_scatter(sum_, values.data_ptr<float>(), begin.data(), stream, rank_timeout_s()), what);
    check(rank_sum_wait(sum_, stream, rank_timeout_s()), what);
  }

 private:
  void check(int status, const std::string& what) const {
    if (status == 0) return;
    throw RunError(fmt::format("rank {} of {}, {}: {} (waited at most {:g} s). Look at what the other ranks said last; the same command goes on from the last checkpoint. "
                               "TRIMTAB_RANK_TIMEOUT_S changes how long to wait",
                               ranks_.rank(), ranks_.size(), what, rank_sum_error(status), rank_timeout_s()));
  }

  Ranks& ranks_;
  at::Device device_;
  RankSum* sum_ = nullptr;
};

std::string identity_of(const at::Device& device) {
  if (!device.is_cuda()) return "";
  const c10::cuda::CUDAGuard guard(device);
  std::string id(kRankSumDeviceBytes, '\0');
  return rank_sum_device(id.data()) == 0 ? id : "";
}

}  // namespace

std::unique_ptr<DeviceSum> DeviceSum::open(Ranks& ranks, const at::Device& device) {
  if (ranks.size() == 1 || !one_device_each(ranks.gather(identity_of(device)))) return nullptr;
  const std::string id = ranks.from_main([] {
    std::string made(kRankSumIdBytes, '\0');
    return rank_sum_id(made.data()) == 0 ? made : "";
  });
  if (id.empty()) throw RunError("NCCL makes no id on rank 0; NCCL_DEBUG=INFO says why, and a build without NCCL sums over the CPU");
  return std::make_unique<NcclSum>(ranks, device, id);
}

#endif

}  // namespace trimtab
