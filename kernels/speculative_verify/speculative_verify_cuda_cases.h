// What the CUDA version is held to wherever it runs: Array<T> is device memory (tests/gpu/device.h) or the host's
// (kernels/cuda_device/host_grid.h).
#pragma once

#include <string>

#include "kernels/speculative_verify/speculative_verify_cases.h"
#include "kernels/speculative_verify/speculative_verify_cuda.h"

namespace trimtab {

struct CudaVerify {
  template <class Batch>
  bool operator()(const Batch& batch) const {
    return speculative_verify_cuda(batch, nullptr) == cudaSuccess;
  }
};

// Random chains and trees of one vocabulary against the definition, and, of some vocabularies, sequence by sequence.
template <template <class> class Array>
std::string speculative_verify_cuda_mismatch(int64_t vocab, int64_t sequences, uint64_t seed, Compared& compared) {
  Draws draws(seed, Stream::kTest, static_cast<uint32_t>(vocab), 200);
  const ChainCase chains = random_chains(vocab, sequences, draws);
  const TreeCase trees = random_trees(vocab, sequences, draws);
  std::string wrong = definition_mismatch<Array>(chains, CudaVerify{}, compared) + definition_mismatch<Array>(trees, CudaVerify{}, compared);
  if (vocab % 30 == 1) wrong += split_mismatch<Array>(chains, CudaVerify{}) + split_mismatch<Array>(trees, CudaVerify{});
  return wrong;
}

}  // namespace trimtab
