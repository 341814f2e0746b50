// Trie attention on tensor cores (FlashAttention-2, arXiv 2307.08691, with a mask of one number per key). A block of four warps owns 64
// rows of one head, sixteen per warp, and keeps their products in registers; the rows they meet pass through shared memory, a tile at a
// time. The forward and dq own queries and meet keys, dk and dv own keys and meet the queries of every head of the group. Tiles in which
// no row sees a key are passed over, so a batch of many tries costs what its tries cost.
#include "kernels/trie_attention/trie_attention_cuda.h"

#include "kernels/cuda_device/cuda_device.cuh"

namespace trimtab {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kOwn = 16 * kWarps;   // rows of a block
constexpr int kMet = 32;                                                    // rows of a tile it meets
constexpr int kPad = 8;                                                     // keeps a column of shared rows off one bank

// Where a lane's numbers of a 16 x 8 product lie (cuda_device.cuh).
__device__ inline int lane_row() { return static_cast<int>(threadIdx.x) % kWarp / 4; }
__device__ inline int lane_column() { return static_cast<int>(threadIdx.x) % kWarp % 4 * 2; }

// Rows [first, first + 16) of x as left operands, kSize / 16 fragments; zero beyond `rows` and `size`.
template <class T, int kSize>
__device__ void load_left(uint32_t (&to)[kSize / 16][4], const T* x, int64_t stride, int64_t first, int64_t rows, int size) {
  for (int s = 0; s < kSize / 16; ++s)
    for (int i = 0; i < 4; ++i) {
      const int64_t row = first + lane_row() + i % 2 * 8;
      const int column = 16 * s + lane_column() + i / 2 * 8;
      to[s][i] = row < rows && column < size ? *reinterpret_cast<const Word*>(x + row * stride + column) : 0u;
    }
}

// Rows [first, first + kMet) of x into shared memory, zero beyond `rows` and `size`.
template <class T, int kSize>
__device__ void load_met(T (*to)[kSize + kPad], const T* x, int64_t stride, int64_t first, int64_t rows, int size) {
  constexpr int kChunks = kSize / 8;   // of eight numbers, sixteen bytes
  for (int i = static_cast<int>(threadIdx.x); i < kMet * kChunks; i += kThreads) {
    const int64_t row = first + i / kChunks;
    const int column = i % kChunks * 8;
    const bool inside = row < rows && column < size;
    *reinterpret_cast<Chunk*>(&to[i / kChunks][column]) = inside ? *reinterpret_cast<const Chunk*>(x + row * stride + column) : Chunk{};
  }
}

// product [16, kMet] = left [16, kSize] met^T.
template <class T, int kSize>
__device__ void multiply(float (&product)[kMet / 8][4], const uint32_t (&left)[kSize / 16][4], T (*met)[kSize + kPad]) {
  for (int j = 0; j < kMet / 8; ++j) {
    for (int i = 0; i < 4; ++i) product[j][i] = 0;
    const T* row = met[8 * j + lane_row()] + lane_column();
    for (int s = 0; s < kSize / 16; ++s)
      mma_16x8x16(product[j], left[s], *reinterpret_cast<const Word*>(row + 16 * s), *reinterpret_cast<const Word*>(row + 16 * s + 8), T{});
  }
}

// sum [16, kSize] += weight [16, kMet] met, the weights rounded to T.
template <class T, int kSize>
__device__ void add_weighted(float (&sum)[kSize / 8][4], const float (&weight)[kMet / 8][4], T (*met)[kSize + kPad]) {
  for (int s = 0; s < kMet / 16; ++s) {
    const float(&w)[4] = weight[2 * s], (&next)[4] = weight[2 * s + 1];
    const uint32_t left[4] = {packed<T>(w[0], w[1]), packed<T>(w[2], w[3]), packed<T>(next[0], next[1]), packed<T>(next[2], next[3])};
    const int row = 16 * s + lane_column();
    for (int j = 0; j < kSize / 8; ++j) {
      const int column = 8 * j + lane_row();
      mma_16x8x16(sum[j], left, packed(met[row][column], met[row + 1][column]), packed(met[row + 8][column], met[row + 9][column]), T{});
    }
  }
}

template <int kColumns>
__device__ void clear(float (&x)[kColumns][4]) {
  for (int j = 0; j < kColumns; ++j)
    for (int i = 0; i < 4; ++i) x[j][i] = 0;
}

// Rows [first, first + 16) of y = x * scale[lower or upper row].
template <class T, int kSize>
__device__ void store(T* y, int64_t stride, int64_t first, int64_t rows, int size, const float (&x)[kSize / 8][4], const float (&scale)[2]) {
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + lane_row() + 8 * half;
    if (row >= rows) continue;
    for (int j = 0; j < kSize / 8; ++j) {
      const int column = 8 * j + lane_column();
      if (column < size) *reinterpret_cast<Word*>(y + row * stride + column) = packed<T>(x[j][2 * half] * scale[half], x[j][2 * half + 1] * scale[half]);
    }
  }
}

// Largest or sum over the four lanes that hold a row.
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

// The keys [first, first + kMet) end at `end` (shared, 0 beyond the rows); whether a query from first_query on sees any of them.
__device__ inline bool load_ends(int32_t* end, const int32_t* from, int64_t first, int64_t rows, int64_t first_query) {
  bool seen = false;
  if (threadIdx.x < kMet) {
    const int64_t key = first + static_cast<int64_t>(threadIdx.x);
    end[threadIdx.x] = key < rows ? from[key] : 0;
    seen = end[threadIdx.x] > first_query;
  }
  return __syncthreads_or(seen) != 0;
}

// Brings the keys and values [key, key + kMet) of a head into shared memory, if a query from first_query on sees any of them.
template <class T, int kSize>
__device__ bool meet_keys(const TrieAttentionCuda<T>& a, int64_t kv_head, int64_t key, int64_t first_query, T (*k_met)[kSize + kPad], T (*v_met)[kSize + kPad], int32_t* end) {
  if (!load_ends(end, a.end, key, a.rows, first_query)) return false;
  const int size = static_cast<int>(a.head_size);
  load_met<T, kSize>(k_met, a.k + kv_head * size, a.k_stride, key, a.rows, size);
  load_met<T, kSize>(v_met, a.v + kv_head * size, a.v_stride, key, a.rows, size);
  __syncthreads();
  return true;
}

template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) forward_kernel(const TrieAttentionCuda<T> a) {
  __shared__ __align__(16) T k_met[kMet][kSize + kPad];
  __shared__ __align__(16) T v_met[kMet][kSize + kPad];
  __shared__ int32_t end[kMet];
  const int64_t block_first = int64_t{blockIdx.x} * kOwn, first = block_first + threadIdx.x / kWarp * 16, head = blockIdx.y;
  const int64_t kv_head = head / (a.heads / a.kv_heads);
  const int size = static_cast<int>(a.head_size);
  uint32_t q[kSize / 16][4];
  load_left<T, kSize>(q, a.q + head * size, a.q_stride, first, a.rows, size);
  float out[kSize / 8][4], max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  clear(out);
  for (int64_t key = 0; key < block_first + kOwn && key < a.rows; key += kMet) {
    if (meet_keys<T, kSize>(a, kv_head, key, block_first, k_met, v_met, end)) {
      float score[kMet / 8][4], top[2] = {max[0], max[1]};
      multiply<T, kSize>(score, q, k_met);
      for (int j = 0; j < kMet / 8; ++j)
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * j + lane_column() + i % 2;
          const int64_t row = first + lane_row() + i / 2 * 8;
          score[j][i] = key + column <= row && row < end[column] ? score[j][i] * a.scale : -INFINITY;
          top[i / 2] = fmaxf(top[i / 2], score[j][i]);
        }
      for (int half = 0; half < 2; ++half) {
        top[half] = row_max(top[half]);
        const float shrink = max[half] == -INFINITY ? 0 : expf(max[half] - top[half]);
        float added = 0;
        for (int j = 0; j < kMet / 8; ++j)
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            score[j][i] = score[j][i] == -INFINITY ? 0 : expf(score[j][i] - top[half]);
            added += score[j][i];
          }
        for (int j = 0; j < kSize / 8; ++j) out[j][2 * half] *= shrink, out[j][2 * half + 1] *= shrink;
        sum[half] = sum[half] * shrink + row_sum(added), max[half] = top[half];
      }
      add_weighted<T, kSize>(out, score, v_met);
    }
    __syncthreads();   // the tile is overwritten next
  }
  const float scale[2] = {1 / sum[0], 1 / sum[1]};
  store<T, kSize>(a.out + head * size, a.out_stride, first, a.rows, size, out, scale);
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + lane_row() + 8 * half;
    if (lane_column() == 0 && row < a.rows) a.lse[row * a.heads + head] = max[half] + logf(sum[half]);
  }
}

// delta = sum over the head of d_out * out, one warp per row and head.
template <class T>
__global__ void delta_kernel(const TrieAttentionGradientCuda<T> g) {
  const TrieAttentionCuda<T>& a = g.forward;
  const int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp, row = item / a.heads, head = item % a.heads;
  if (row >= a.rows) return;   // a whole warp
  const T* out = a.out + row * a.out_stride + head * a.head_size;
  const T* d_out = g.d_out + row * g.d_out_stride + head * a.head_size;
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < a.head_size; i += kWarp) sum += to_float(out[i]) * to_float(d_out[i]);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) g.delta[item] = sum;
}

template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) query_gradient_kernel(const TrieAttentionGradientCuda<T> g) {
  __shared__ __align__(16) T k_met[kMet][kSize + kPad];
  __shared__ __align__(16) T v_met[kMet][kSize + kPad];
  __shared__ int32_t end[kMet];
  const TrieAttentionCuda<T>& a = g.forward;
  const int64_t block_first = int64_t{blockIdx.x} * kOwn, first = block_first + threadIdx.x / kWarp * 16, head = blockIdx.y;
  const int64_t kv_head = head / (a.heads / a.kv_heads);
  const int size = static_cast<int>(a.head_size);
  uint32_t q[kSize / 16][4], d_out[kSize / 16][4];
  load_left<T, kSize>(q, a.q + head * size, a.q_stride, first, a.rows, size);
  load_left<T, kSize>(d_out, g.d_out + head * size, g.d_out_stride, first, a.rows, size);
  float lse[2] = {0, 0}, delta[2] = {0, 0}, d_q[kSize / 8][4];
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + lane_row() + 8 * half;
    if (row < a.rows) lse[half] = a.lse[row * a.heads + head], delta[half] = g.delta[row * a.heads + head];
  }
  clear(d_q);
  for (int64_t key = 0; key < block_first + kOwn && key < a.rows; key += kMet) {
    if (meet_keys<T, kSize>(a, kv_head, key, block_first, k_met, v_met, end)) {
      float score[kMet / 8][4], d_score[kMet / 8][4];
      multiply<T, kSize>(score, q, k_met);
      multiply<T, kSize>(d_score, d_out, v_met);
      for (int j = 0; j < kMet / 8; ++j)
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * j + lane_column() + i % 2;
          const int64_t row = first + lane_row() + i / 2 * 8;
          const bool visible = key + column <= row && row < end[column];
          d_score[j][i] = visible ? expf(score[j][i] * a.scale - lse[i / 2]) * (d_score[j][i] - delta[i / 2]) : 0;
        }
      add_weighted<T, kSize>(d_q, d_score, k_met);
    }
    __syncthreads();
  }
  const float scale[2] = {a.scale, a.scale};
  store<T, kSize>(g.d_q + head * size, g.d_q_stride, first, a.rows, size, d_q, scale);
}

// Owns keys; the products are transposed: rows are keys, columns queries.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) key_gradient_kernel(const TrieAttentionGradientCuda<T> g) {
  __shared__ __align__(16) T q_met[kMet][kSize + kPad];
  __shared__ __align__(16) T d_out_met[kMet][kSize + kPad];
  __shared__ float lse[kMet], delta[kMet];
  const TrieAttentionCuda<T>& a = g.forward;
  const int64_t block_first = int64_t{blockIdx.x} * kOwn, first = block_first + threadIdx.x / kWarp * 16, kv_head = blockIdx.y;
  const int64_t group = a.heads / a.kv_heads;
  const int size = static_cast<int>(a.head_size);
  int64_t block_end = 0, end[2] = {0, 0};   // one behind the last query that sees the block's keys; a lane's two
  for (int64_t key = block_first; key < block_first + kOwn && key < a.rows; ++key) block_end = a.end[key] > block_end ? a.end[key] : block_end;
  for (int half = 0; half < 2; ++half) {
    const int64_t key = first + lane_row() + 8 * half;
    if (key < a.rows) end[half] = a.end[key];
  }
  float d_k[kSize / 8][4], d_v[kSize / 8][4];
  clear(d_k), clear(d_v);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for (int64_t query = block_first; query < block_end; query += kMet) {
      load_met<T, kSize>(q_met, a.q + head * size, a.q_stride, query, a.rows, size);
      load_met<T, kSize>(d_out_met, g.d_out + head * size, g.d_out_stride, query, a.rows, size);
      if (threadIdx.x < kMet) {
        const int64_t row = query + static_cast<int64_t>(threadIdx.x);
        lse[threadIdx.x] = row < a.rows ? a.lse[row * a.heads + head] : 0;
        delta[threadIdx.x] = row < a.rows ? g.delta[row * a.heads + head] : 0;
      }
      __syncthreads();
      float weight[kMet / 8][4], d_score[kMet / 8][4];
      // The block's own keys and values are read anew each time: kept, they would not fit beside both sums.
      uint32_t own[kSize / 16][4];
      load_left<T, kSize>(own, a.k + kv_head * size, a.k_stride, first, a.rows, size);
      multiply<T, kSize>(weight, own, q_met);
      load_left<T, kSize>(own, a.v + kv_head * size, a.v_stride, first, a.rows, size);
      multiply<T, kSize>(d_score, own, d_out_met);
      for (int j = 0; j < kMet / 8; ++j)
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * j + lane_column() + i % 2;
          const int64_t key = first + lane_row() + i / 2 * 8;
          const bool visible = key <= query + column && query + column < end[i / 2];
          weight[j][i] = visible ? expf(weight[j][i] * a.scale - lse[column]) : 0;
          d_score[j][i] = weight[j][i] * (d_score[j][i] - delta[column]);
        }
      add_weighted<T, kSize>(d_v, weight, d_out_met);
      add_weighted<T, kSize>(d_k, d_score, q_met);
      __syncthreads();
    }
  const float scale[2] = {a.scale, a.scale}, one[2] = {1, 1};
  store<T, kSize>(g.d_k + kv_head * size, g.d_k_stride, first, a.rows, size, d_k, scale);
  store<T, kSize>(g.d_v + kv_head * size, g.d_v_stride, first, a.rows, size, d_v, one);
}

unsigned blocks_of(int64_t rows, int64_t per_block) { return static_cast<unsigned>((rows + per_block - 1) / per_block); }

template <class T>
bool readable(const T* data, int64_t stride) {
  return stride % 8 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

template <class T>
bool valid(const TrieAttentionCuda<T>& a) {
  return a.head_size > 0 && a.head_size <= 128 && a.head_size % 8 == 0 && a.kv_heads > 0 && a.heads % a.kv_heads == 0 && readable(a.q, a.q_stride) &&
         readable(a.k, a.k_stride) && readable(a.v, a.v_stride) && readable(a.out, a.out_stride);
}

// f(the least of 32, 64 and 128 that holds a head, as a type).
template <int N>
struct Size {
  static constexpr int value = N;
};
template <class F>
cudaError_t with_size(int64_t head_size, const F& f) {
  return head_size <= 32 ? f(Size<32>()) : head_size <= 64 ? f(Size<64>()) : f(Size<128>());
}

template <class T>
cudaError_t forward(const TrieAttentionCuda<T>& a, cudaStream_t stream) {
  if (!valid(a)) return cudaErrorInvalidValue;
  if (a.rows == 0) return cudaSuccess;
  const dim3 blocks(blocks_of(a.rows, kOwn), static_cast<unsigned>(a.heads));
  return with_size(a.head_size, [&](auto size) { return launch(forward_kernel<T, decltype(size)::value>, blocks, kThreads, stream, a); });
}

template <class T>
cudaError_t backward(const TrieAttentionGradientCuda<T>& g, cudaStream_t stream) {
  const TrieAttentionCuda<T>& a = g.forward;
  if (!valid(a) || !readable(g.d_out, g.d_out_stride) || !readable(g.d_q, g.d_q_stride) || !readable(g.d_k, g.d_k_stride) || !readable(g.d_v, g.d_v_stride))
    return cudaErrorInvalidValue;
  if (a.rows == 0) return cudaSuccess;
  const cudaError_t status = launch(delta_kernel<T>, blocks_of(a.rows * a.heads, kWarps), kThreads, stream, g);
  if (status != cudaSuccess) return status;
  const unsigned tiles = blocks_of(a.rows, kOwn);
  return with_size(a.head_size, [&](auto size) {
    constexpr int kSize = decltype(size)::value;
    const cudaError_t queries = launch(query_gradient_kernel<T, kSize>, dim3(tiles, static_cast<unsigned>(a.heads)), kThreads, stream, g);
    return queries != cudaSuccess ? queries : launch(key_gradient_kernel<T, kSize>, dim3(tiles, static_cast<unsigned>(a.kv_heads)), kThreads, stream, g);
  });
}

}  // namespace

cudaError_t trie_attention_forward_cuda(const TrieAttentionCuda<Float16>& a, cudaStream_t stream) { return forward(a, stream); }
cudaError_t trie_attention_forward_cuda(const TrieAttentionCuda<Bfloat16>& a, cudaStream_t stream) { return forward(a, stream); }
cudaError_t trie_attention_backward_cuda(const TrieAttentionGradientCuda<Float16>& a, cudaStream_t stream) { return backward(a, stream); }
cudaError_t trie_attention_backward_cuda(const TrieAttentionGradientCuda<Bfloat16>& a, cudaStream_t stream) { return backward(a, stream); }

}  // namespace trimtab
