// The sum over ranks of a gradient that lies on GPUs, without the way over the CPU: NCCL (kernels/rank_sum), whose id goes over the ranks' own
// connection. Which GPU is a rank's, and who can't use it: two ranks on one GPU, a build without CUDA or NCCL; their sums go over the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/ranks.h"

namespace trimtab {

// `compute` with the GPU of this rank where it names CUDA: those of a machine are dealt out to its ranks in turn.
at::TensorOptions on_own_device(at::TensorOptions compute, const Ranks& ranks);

class DeviceSum {
 public:
  // Null on every rank where one of them can't: every rank calls it. RunError where NCCL fails or a rank does not come in time (rank_timeout_s).
  // `ranks` outlives it.
  static std::unique_ptr<DeviceSum> open(Ranks& ranks, const at::Device& device);
  virtual ~DeviceSum() = default;
  // As Ranks::sum_scatter: the own piece of `values` (f32, on the device) holds the sum, the rest is undefined. Returns when it is there.
  virtual void sum_scatter(const at::Tensor& values) = 0;
};

// What every rank says of its device, "" where it has none: are they there, and all different?
bool one_device_each(const std::vector<std::string>& devices);

}  // namespace trimtab
