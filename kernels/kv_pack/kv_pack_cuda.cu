// Quantising and packing, one block per page. Groups' parameters first, a thread per group; then codes, a thread per word, since the
// codes of a word belong to several groups. Sums and products are rounded one by one, as the CPU's are: a fused multiply-add would round
// some numbers to another code. (Division and square root are IEEE's, nvcc's default.)
#include "kernels/kv_pack/kv_pack_cuda.h"

#include "kernels/kv_pack/kv_page.cuh"

namespace trimtab {
namespace {

constexpr int kThreads = 256;
constexpr int kMost = 512, kMostTokens = 256;   // of head_dim, of a page
constexpr float kLargestHalf = 65504;

// The nearest numbers of f16 that are not below x >= 0, and not above x.
__device__ Float16 stored_above(float x) {
  Float16 half = rounded<Float16>(x);
  half.bits = static_cast<uint16_t>(half.bits + (to_float(half) < x));
  return half;
}
__device__ Float16 stored_below(float x) {
  Float16 half = rounded<Float16>(x);
  if (to_float(half) > x) half.bits = static_cast<uint16_t>(half.bits == 0 ? 0x8001 : x < 0 ? half.bits + 1 : half.bits - 1);
  return half;
}
// Of two zeros of different sign the first, which fminf and fmaxf leave open.
__device__ float smaller(float a, float b) { return b < a ? b : a; }
__device__ float larger(float a, float b) { return a < b ? b : a; }
// Ties to even, for |x| < 2^22.
__device__ float nearest(float x) { return __fadd_rn(__fadd_rn(x, 0x1.8p23f), -0x1.8p23f); }

// The keys or the values of a page.
template <class T>
struct Part {
  const T* x;
  int64_t stride;
  KvFormatCuda format;
  bool keys;
  int bits;
  uint8_t* codes;
  Float16 *scale, *zero, *extra;
  float* factor;   // shared: the inverse of what numbers are divided by, by token for keys and by channel for values

  __device__ float number(int t, int c) const { return to_float(x[t * stride + c]); }
  __device__ float scaled(int t, int c) const { return __fmul_rn(number(t, c), factor[keys ? t : c]); }
  __device__ int group(int t, int c) const {
    if (keys) return format.keys_by_token ? t : c;
    return c / value_group_of(format) * format.tokens + t;
  }
  __device__ bool has_extra() const { return keys ? format.key_norm : format.value_channel_scale; }
};

// What numbers are divided by before they are quantised, stored and inverted.
template <class T>
__device__ void divide(const Part<T>& p) {
  const int d = p.format.head_dim, tokens = p.format.tokens;
  for (int i = static_cast<int>(threadIdx.x); i < (p.keys ? tokens : d); i += kThreads) {
    p.factor[i] = 1;
    if (!p.has_extra()) continue;
    float size = 0;
    if (p.keys) {
      double sum = 0;   // in the CPU's order; the squares are exact
      for (int c = 0; c < d; ++c) sum += double{p.number(i, c)} * double{p.number(i, c)};
      size = static_cast<float>(fmin(sqrt(sum), double{kLargestHalf}));
    } else {
      for (int t = 0; t < tokens; ++t) size = fmaxf(size, fabsf(p.number(t, i)));
      size = sqrtf(size);
    }
    p.extra[i] = rounded<Float16>(size);
    const float stored = to_float(p.extra[i]);
    p.factor[i] = stored > 0 ? 1 / stored : 0;
  }
}

template <class T>
__device__ void fit(const Part<T>& p) {
  const KvFormatCuda& f = p.format;
  const int size = p.keys ? f.head_dim : value_group_of(f);   // of a group along the head
  const bool by_channel = p.keys && !f.keys_by_token;
  const int groups = by_channel ? f.head_dim : f.head_dim / size * f.tokens;
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += kThreads) {
    const int t0 = by_channel ? 0 : g % f.tokens, c0 = by_channel ? g : g / f.tokens * size;
    float low = p.scaled(t0, c0), high = low;
    for (int i = 1; i < (by_channel ? f.tokens : size); ++i) {
      const float x = by_channel ? p.scaled(i, c0) : p.scaled(t0, c0 + i);
      low = smaller(low, x), high = larger(high, x);
    }
    if (f.symmetric) {
      const int steps = (1 << (p.bits - 1)) - 1;
      p.scale[g] = stored_above(larger(larger(-low, high), 0.0f) / static_cast<float>(steps > 1 ? steps : 1));
    } else {
      p.zero[g] = stored_below(low);
      p.scale[g] = stored_above((high - to_float(p.zero[g])) / static_cast<float>((1 << p.bits) - 1));
    }
  }
}

// Sums of squares of what was lost and of what there was.
struct Loss {
  double lost = 0, size = 0;
};

template <class T>
__device__ int quantise(const Part<T>& p, int t, int c, Loss& loss) {
  const bool symmetric = p.format.symmetric;
  const int group = p.group(t, c);
  const float scale = to_float(p.scale[group]), inverse = scale > 0 ? 1 / scale : 0, most = static_cast<float>((1 << p.bits) - 1);
  const float zero = symmetric ? 0 : to_float(p.zero[group]), offset = symmetric ? symmetric_offset(p.bits) : 0, least = symmetric ? 1 : 0;
  const float code = nearest(fminf(fmaxf(__fadd_rn(__fmul_rn(__fadd_rn(p.scaled(t, c), -zero), inverse), offset), least), most));
  const float x = p.number(t, c), divisor = p.has_extra() ? to_float(p.extra[p.keys ? t : c]) : 1;
  const float packed = __fmul_rn(__fadd_rn(__fmul_rn(scale, code), symmetric ? -scale * offset : zero), divisor);
  const double difference = double{packed} - double{x};
  loss.lost += difference * difference, loss.size += double{x} * double{x};
  return static_cast<int>(code);
}

// Codes word by word: four along the summed axis in the bytes, the quads after them above in the bits.
template <class T>
__device__ Loss put_codes(const Part<T>& p) {
  Loss loss;
  const int per = 8 / p.bits, across = p.keys ? p.format.tokens : p.format.head_dim, along = p.keys ? p.format.head_dim : p.format.tokens;
  for (int i = static_cast<int>(threadIdx.x); i < along / (4 * per) * across; i += kThreads) {
    uint32_t word = 0;
    for (int j = 0; j < 4 * per; ++j) {
      const int from = i / across * 4 * per + j, at = i % across;
      const int code = p.keys ? quantise(p, at, from, loss) : quantise(p, from, at, loss);
      word |= static_cast<uint32_t>(code) << (j % 4 * 8 + j / 4 * p.bits);
    }
    reinterpret_cast<Word*>(p.codes)[i] = word;
  }
  return loss;
}

template <class T>
__device__ void put_halves(const Part<T>& p) {
  for (int i = static_cast<int>(threadIdx.x); i < p.format.tokens * p.format.head_dim; i += kThreads)
    reinterpret_cast<Float16*>(p.codes)[i] = rounded<Float16>(p.number(i / p.format.head_dim, i % p.format.head_dim));
}

// In the order of the threads, so that results repeat.
__device__ double block_sum_of(double x, double* scratch) {
  scratch[threadIdx.x] = x;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kThreads; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

// The relative error; 0 for f16. All threads are done with p.factor when it returns.
template <class T>
__device__ float pack_part(const Part<T>& p, double* scratch) {
  if (p.bits == 16) {
    put_halves(p);
    return 0;
  }
  divide(p);
  __syncthreads();
  fit(p);
  __syncthreads();
  const Loss loss = put_codes(p);
  const double lost = block_sum_of(loss.lost, scratch), size = block_sum_of(loss.size, scratch);
  return size > 0 ? static_cast<float>(sqrt(lost / size)) : 0;
}

// Index of the first number that cannot be stored, keys before values, or the count of all.
template <class T>
__device__ int first_bad(const Part<T>& keys, const Part<T>& values, int* scratch) {
  const int d = keys.format.head_dim, each = d * keys.format.tokens;
  int bad = 2 * each;
  for (int i = static_cast<int>(threadIdx.x); i < each; i += kThreads) {
    if (!(fabsf(values.number(i / d, i % d)) <= kLargestHalf) && bad > each + i) bad = each + i;
    if (!(fabsf(keys.number(i / d, i % d)) <= kLargestHalf) && bad > i) bad = i;
  }
  scratch[threadIdx.x] = bad;
  __syncthreads();
  for (int i = 0; i < kThreads; ++i) bad = scratch[i] < bad ? scratch[i] : bad;
  return bad;
}

template <class T>
__device__ Part<T> part_of(const KvPackCuda<T>& a, const KvPackPageCuda<T>& page, const KvPlaces& places, bool keys, float* factor) {
  const KvPartPlaces& at = keys ? places.key : places.value;
  const auto halves = [&](int place) { return reinterpret_cast<Float16*>(page.page + place); };
  return {keys ? page.keys : page.values, a.stride, a.format, keys, keys ? page.key_bits : page.value_bits, page.page + at.codes, halves(at.scale),
          halves(at.zero), halves(at.extra), factor};
}

template <class T>
__global__ void __launch_bounds__(kThreads) pack_kernel(const KvPackCuda<T> a) {
  __shared__ float factor[kMost];
  __shared__ double sums[kThreads];
  __shared__ int firsts[kThreads];
  const KvPackPageCuda<T> page = a.list[blockIdx.x];
  KvPackResultCuda result;
  if (page.key_bits != 0 || page.value_bits != 0) {
    const KvPlaces places = kv_places(a.format, page.key_bits, page.value_bits);
    const Part<T> keys = part_of(a, page, places, true, factor), values = part_of(a, page, places, false, factor);
    const int d = a.format.head_dim, each = d * a.format.tokens, bad = first_bad(keys, values, firsts);
    if (bad < 2 * each) {
      result.bad_value = bad >= each, result.bad_token = bad % each / d, result.bad_channel = bad % d;
    } else {
      result.key_error = pack_part(keys, sums);
      result.value_error = pack_part(values, sums);
      for (int i = places.used + static_cast<int>(threadIdx.x); i < places.bytes; i += kThreads) page.page[i] = 0;
    }
  }
  if (a.results != nullptr && threadIdx.x == 0) a.results[blockIdx.x] = result;
}

template <class T>
cudaError_t pack(const KvPackCuda<T>& a, cudaStream_t stream) {
  if (!valid(a.format, kMost, kMostTokens) || a.pages < 0 || a.pages > 0x7fffffff) return cudaErrorInvalidValue;
  if (a.pages == 0) return cudaSuccess;
  return launch(pack_kernel<T>, dim3(static_cast<unsigned>(a.pages)), dim3(kThreads), stream, a);
}

}  // namespace

cudaError_t kv_pack_cuda(const KvPackCuda<float>& a, cudaStream_t stream) { return pack(a, stream); }
cudaError_t kv_pack_cuda(const KvPackCuda<Float16>& a, cudaStream_t stream) { return pack(a, stream); }
cudaError_t kv_pack_cuda(const KvPackCuda<Bfloat16>& a, cudaStream_t stream) { return pack(a, stream); }

}  // namespace trimtab
