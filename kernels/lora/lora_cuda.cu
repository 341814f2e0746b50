// Adapters on CUDA, without tensor cores: with ranks of 8 to 64 and few rows the weights' way from memory is what is waited for. A block
// takes a tile of rows and goes through its runs of rows with the same adapter, so a weight is read once per run; threads lie along a
// weight's columns, which are contiguous. Attention has one block per query.
#include "kernels/lora/lora_cuda.h"

#include "kernels/cuda_device/cuda_device.cuh"

namespace trimtab {
namespace {

constexpr int kThreads = 128, kRows = 8;

// Number i of an adapter's matrix.
__device__ float number(const void* matrix, LoraNumbers numbers, int64_t i) {
  return numbers == LoraNumbers::kFloat ? static_cast<const float*>(matrix)[i] : to_float(static_cast<const Bfloat16*>(matrix)[i]);
}

// The adapter of a row, -1: none. Segments are searched by halves.
__device__ int adapter_of(const LoraRows& a, int64_t row) {
  if (a.start == nullptr) return a.adapter[row];
  int64_t low = 0, high = a.segments;   // the first segment that ends behind the row
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (a.start[middle + 1] > row) high = middle;
    else low = middle + 1;
  }
  return low < a.segments && a.start[low] <= row ? a.adapter[low] : -1;
}

// visit(adapter, first row, number of rows) for the runs of this block's rows. All threads of the block take the same way.
template <class Visit>
__device__ void visit_runs(const LoraRows& a, const Visit& visit) {
  const int64_t first = a.first_row + int64_t{blockIdx.x} * kRows;
  const int rows = static_cast<int>(a.last_row - first < kRows ? a.last_row - first : kRows);
  for (int r = 0, end; r < rows; r = end) {
    const int adapter = adapter_of(a, first + r);
    for (end = r + 1; end < rows && adapter_of(a, first + end) == adapter;) ++end;
    if (adapter >= 0 && a.adapters[adapter].rank > 0) visit(a.adapters[adapter], first + r, end - r);
  }
}

// Threads are [slices of the inputs][columns]; slices are added up in order.
__global__ void __launch_bounds__(kThreads) shrink_kernel(const LoraShrink s) {
  __shared__ float parts[kRows][kThreads];
  visit_runs(s.rows, [&](const LoraAdapter& adapter, int64_t row, int rows) {
    const int width = adapter.rank < kThreads ? adapter.rank : kThreads, slices = kThreads / width;
    const int slice = static_cast<int>(threadIdx.x) / width, lane = static_cast<int>(threadIdx.x) % width;
    for (int first = 0; first < adapter.rank; first += width) {
      const int column = first + lane;
      float sum[kRows] = {};
      if (slice < slices && column < adapter.rank)
        for (int64_t k = slice; k < s.in; k += slices) {
          const float weight = number(adapter.a, adapter.numbers, k * adapter.rank + column);
          TRIMTAB_UNROLL
          for (int r = 0; r < kRows; ++r)
            if (r < rows) sum[r] = fmaf(s.x[(row + r) * s.x_stride + k], weight, sum[r]);
        }
      TRIMTAB_UNROLL
      for (int r = 0; r < kRows; ++r) parts[r][threadIdx.x] = sum[r];
      __syncthreads();
      for (int r = slice; r < rows && slice < slices && column < adapter.rank; r += slices) {
        float total = 0;
        for (int i = 0; i < slices; ++i) total += parts[r][i * width + lane];
        s.v[(row + r) * s.v_stride + column] = total;
      }
      __syncthreads();
    }
  });
}

__global__ void __launch_bounds__(kThreads) expand_kernel(const LoraExpand e) {
  const int64_t column = e.first_panel * kLoraPanel + int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t end = e.last_panel * kLoraPanel < e.out ? e.last_panel * kLoraPanel : e.out;
  if (column >= end) return;   // there is no barrier below
  visit_runs(e.rows, [&](const LoraAdapter& adapter, int64_t row, int rows) {
    float sum[kRows] = {};
    for (int k = 0; k < adapter.rank; ++k) {
      const float weight = number(adapter.b, adapter.numbers, k * e.out + column);
      TRIMTAB_UNROLL
      for (int r = 0; r < kRows; ++r)
        if (r < rows) sum[r] = fmaf(e.v[(row + r) * e.v_stride + k], weight, sum[r]);
    }
    TRIMTAB_UNROLL
    for (int r = 0; r < kRows; ++r)
      if (r < rows) {
        float* y = e.y + (row + r) * e.y_stride + column;
        *y = fmaf(adapter.scale, sum[r], *y);
      }
  });
}

constexpr int kMostColumns = static_cast<int>((kLoraMostHead + kLoraMostRank) / kThreads);   // of a thread

// A thread has one key of a chunk while scores are made, then columns of the values and of z, which are one row of head_dim + rank here.
__global__ void __launch_bounds__(kThreads) attention_kernel(const AttentionLora a) {
  __shared__ float weights[kThreads], scratch[kThreads / kWarp], mixed[kLoraMostRank];
  const LoraQuery query = a.queries[blockIdx.x];
  const LoraCache cache = a.caches[query.cache];
  const int thread = static_cast<int>(threadIdx.x), dim = static_cast<int>(a.head_dim), columns = dim + query.rank;
  float sums[kMostColumns] = {}, max = -INFINITY, sum = 0;
  for (int64_t first = 0; first < query.keys; first += kThreads) {
    const int keys = static_cast<int>(query.keys - first < kThreads ? query.keys - first : kThreads);
    float score = -INFINITY;
    if (thread < keys) {
      const int64_t j = first + thread;
      const float* key = cache.keys + j / kLoraKeyBlock * kLoraKeyBlock * dim + j % kLoraKeyBlock;
      score = 0;
      for (int c = 0; c < dim; ++c) score = fmaf(query.q[c], key[c * kLoraKeyBlock], score);
    }
    const float top = fmaxf(max, block_max(score, scratch)), before = max == top ? 1.0f : expf(max - top);
    const float weight = thread < keys ? expf(score - top) : 0.0f;
    weights[thread] = weight;
    sum = sum * before + block_sum(weight, scratch);   // its barriers are between the writes of weights and their reads
    max = top;
    TRIMTAB_UNROLL
    for (int i = 0; i < kMostColumns; ++i) {
      const int column = thread + i * kThreads;
      if (column >= columns) continue;
      const bool value = column < dim;
      const float* from = value ? cache.values + first * cache.value_stride + column : query.z + first * query.z_stride + (column - dim);
      const int64_t stride = value ? cache.value_stride : query.z_stride;
      float part = 0;
      for (int j = 0; j < keys; ++j) part = fmaf(weights[j], from[j * stride], part);
      sums[i] = sums[i] * before + part;
    }
    __syncthreads();   // the weights have been read
  }
  TRIMTAB_UNROLL
  for (int i = 0; i < kMostColumns; ++i) {
    const int column = thread + i * kThreads;
    if (column >= dim && column < columns) mixed[column - dim] = sums[i];
  }
  __syncthreads();
  TRIMTAB_UNROLL
  for (int i = 0; i < kMostColumns; ++i) {
    const int column = thread + i * kThreads;
    if (column >= dim) continue;
    float low_rank = 0;
    for (int k = 0; k < query.rank; ++k) low_rank = fmaf(mixed[k], query.b[k * query.b_stride + column], low_rank);
    query.out[column] = query.keys == 0 ? 0.0f : fmaf(query.scale, low_rank, sums[i]) / sum;
  }
}

bool rows_hold(const LoraRows& a) {
  return a.first_row >= 0 && a.first_row <= a.last_row && a.segments >= 0 && (a.first_row == a.last_row || a.adapter != nullptr);
}

dim3 grid_of(const LoraRows& a, int64_t columns) {
  return dim3(static_cast<unsigned>((a.last_row - a.first_row + kRows - 1) / kRows), static_cast<unsigned>((columns + kThreads - 1) / kThreads));
}

}  // namespace

cudaError_t lora_shrink_cuda(const LoraShrink& s, cudaStream_t stream) {
  if (!rows_hold(s.rows) || s.in < 0) return cudaErrorInvalidValue;
  if (s.rows.first_row == s.rows.last_row) return cudaSuccess;
  if (s.x_stride < s.in || (s.x == nullptr && s.in > 0) || s.v == nullptr) return cudaErrorInvalidValue;
  return launch(shrink_kernel, grid_of(s.rows, 1), dim3(kThreads), stream, s);
}

cudaError_t lora_expand_cuda(const LoraExpand& e, cudaStream_t stream) {
  if (!rows_hold(e.rows) || e.out < 0 || e.first_panel < 0 || e.last_panel > lora_panels(e.out)) return cudaErrorInvalidValue;
  if (e.rows.first_row == e.rows.last_row || e.first_panel >= e.last_panel) return cudaSuccess;
  if (e.y_stride < e.out || e.v == nullptr || e.y == nullptr) return cudaErrorInvalidValue;
  return launch(expand_kernel, grid_of(e.rows, (e.last_panel - e.first_panel) * kLoraPanel), dim3(kThreads), stream, e);
}

cudaError_t attention_lora_cuda(const AttentionLora& a, cudaStream_t stream) {
  if (a.head_dim < 1 || a.head_dim > kLoraMostHead || a.num_queries < 0) return cudaErrorInvalidValue;
  if (a.num_queries == 0) return cudaSuccess;
  if (a.caches == nullptr || a.queries == nullptr) return cudaErrorInvalidValue;
  return launch(attention_kernel, dim3(static_cast<unsigned>(a.num_queries)), dim3(kThreads), stream, a);
}

}  // namespace trimtab
