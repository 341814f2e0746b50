// The walk of speculative_walk.h by a block of threads. A draw narrows down: every warp sums its part of the range, the part that the
// target falls into is the next range, and 32 tokens are walked one by one. 128 thousand tokens take three passes, of which the first one
// alone is long.
#include "kernels/speculative_verify/speculative_verify_cuda.h"

#include "kernels/cuda_device/cuda_device.cuh"
#include "kernels/speculative_verify/speculative_walk.h"

namespace trimtab {
namespace {

constexpr int kWarps = 16, kThreads = kWarps * kWarp;

// The warp whose part the target falls into, and the sum before that part. -1: all parts are 0.
struct Choice {
  int warp = -1;
  double before = 0;
};

struct BlockRows {
  int vocab;
  float* sums;   // shared, one per warp

  __device__ bool leads() const { return threadIdx.x == 0; }

  __device__ bool is_distribution(const float* row) const {
    float sum = 0;
    int negative = 0;   // or NaN
    for (int j = static_cast<int>(threadIdx.x); j < vocab; j += kThreads) {
      negative |= !(row[j] >= 0);
      sum += row[j];
    }
    negative = __syncthreads_or(negative);
    sum = block_sum(sum, sums);
    return negative == 0 && fabsf(sum - 1) <= kSpeculativeTolerance;
  }

  // Leaves the sum of every warp's part of [begin, end) in `sums`, and returns the size of a part.
  __device__ int sum_parts(const ResidualWeight& weight, int begin, int end) const {
    const int part = ((end - begin + kWarps - 1) / kWarps + kWarp - 1) / kWarp * kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int from = begin + warp * part, to = end - from < part ? end : from + part;
    float sum = 0;
    for (int j = from + lane; j < to; j += kWarp) sum += weight(j);
    sum = warp_sum(sum);
    __syncthreads();   // the sums before have been read
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    return part;
  }

  __device__ double total() const {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += double{sums[w]};
    return sum;
  }

  // The last part with a weight where rounding leaves the target beyond all of them.
  __device__ Choice choose(double target) const {
    Choice choice;
    double before = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (!(sums[w] > 0)) continue;
      choice.warp = w, choice.before = before;
      before += double{sums[w]};
      if (before > target) break;
    }
    return choice;
  }

  __device__ int64_t draw(const ResidualWeight& weight, double u) const {
    int begin = 0, end = vocab, part = sum_parts(weight, begin, end);
    double target = u * total();
    for (;;) {
      const Choice choice = choose(target);
      if (choice.warp < 0) return -1;
      target -= choice.before;
      begin += choice.warp * part;
      if (end - begin > part) end = begin + part;
      if (end - begin <= kWarp) return draw_within(weight, begin, end, target);
      part = sum_parts(weight, begin, end);
    }
  }

  __device__ int64_t draw_within(const ResidualWeight& weight, int begin, int end, double target) const {
    double running = 0;
    int chosen = -1;
    for (int j = begin; j < end; ++j) {
      const float w = weight(j);
      if (!(w > 0)) continue;
      chosen = j, running += double{w};
      if (running > target) break;
    }
    return chosen;
  }

  __device__ Leftover reject(const Rejection& rejection, float* to) const {
    __syncthreads();   // every thread has read what it decided by
    float left = 0, kept = 0;
    for (int j = static_cast<int>(threadIdx.x); j < vocab; j += kThreads) {
      const float x = rejection(j);
      to[j] = x;
      left += x > 0 ? x : 0;
      if (rejection.q != nullptr) kept += x < 0 ? 0 : rejection.q[j];
    }
    left = block_sum(left, sums);
    kept = block_sum(kept, sums);
    return {double{left}, double{kept}};
  }
};

__global__ void __launch_bounds__(kThreads) chains_kernel(const SpeculativeChains c) {
  __shared__ float sums[kWarps];
  const SpeculativeVerdict verdict = walk_chain(c, blockIdx.x, BlockRows{static_cast<int>(c.vocab), sums});
  if (threadIdx.x == 0) c.verdict[blockIdx.x] = verdict;
}

__global__ void __launch_bounds__(kThreads) trees_kernel(const SpeculativeTrees t) {
  __shared__ float sums[kWarps];
  float* scratch = t.scratch + int64_t{blockIdx.x} * t.vocab;
  const SpeculativeVerdict verdict = walk_tree(t, blockIdx.x, scratch, BlockRows{static_cast<int>(t.vocab), sums});
  if (threadIdx.x == 0) t.verdict[blockIdx.x] = verdict;
}

}  // namespace

cudaError_t speculative_verify_cuda(const SpeculativeChains& c, cudaStream_t stream) {
  if (!speculative_shape_holds(c)) return cudaErrorInvalidValue;
  if (c.num_sequences == 0) return cudaSuccess;
  return launch(chains_kernel, dim3(static_cast<unsigned>(c.num_sequences)), dim3(kThreads), stream, c);
}

cudaError_t speculative_verify_cuda(const SpeculativeTrees& t, cudaStream_t stream) {
  if (!speculative_shape_holds(t)) return cudaErrorInvalidValue;
  if (t.num_sequences == 0) return cudaSuccess;
  if (t.scratch == nullptr || t.path == nullptr) return cudaErrorInvalidValue;
  return launch(trees_kernel, dim3(static_cast<unsigned>(t.num_sequences)), dim3(kThreads), stream, t);
}

}  // namespace trimtab
