// Pages for the tests of packing by CUDA, wherever it runs: Array<T> is device memory (tests/gpu/device.h) or the host's
// (kernels/cuda_device/host_grid.h). On the host the bytes are compared with the CPU's; a device's with their digest.
#pragma once

#include <cmath>
#include <vector>

#include "core/random.h"
#include "kernels/kv_pack/kv_page.cuh"

namespace trimtab {

struct PackCudaCase {
  KvFormatCuda format;
  int key_bits = 16, value_bits = 16;
  std::vector<float> keys, values;   // [tokens, head_dim]
};

// Numbers that are the same on every machine: no logarithms. An outlier channel and a sink token; equal rows; very small numbers.
inline std::vector<float> exact_rows(const KvFormatCuda& f, Draws& draws) {
  std::vector<float> out(static_cast<size_t>(f.tokens) * f.head_dim);
  const uint32_t kind = draws.below(5), channel = draws.below(f.head_dim), token = draws.below(f.tokens);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = kind == 0 ? 0.7f : (draws.uniform() - 0.5f) * (kind == 1 ? 0x1p-18f : 8.0f);
    if (kind >= 3 && i % f.head_dim == channel) out[i] += 12;
    if (kind >= 4 && i / f.head_dim == token) out[i] *= 20;
  }
  return out;
}

constexpr uint64_t kPackSeed = 20260101;
constexpr uint32_t kPackCases = 48;
constexpr uint64_t kPackDigest = 9992165196849159047ull;   // of all cases' pages, as the CPU packs them

inline PackCudaCase pack_cuda_case(uint32_t number) {
  Draws draws(kPackSeed, Stream::kTest, number, 98);
  const int dims[] = {16, 32, 48, 64, 80, 128, 256, 512}, tokens[] = {16, 32, 48, 64, 256}, widths[] = {16, 8, 4, 2};
  PackCudaCase c;
  c.format = {dims[draws.below(8)], tokens[draws.below(5)], 0, draws.below(2) == 0, draws.below(3) == 0, false, draws.below(3) == 0};
  c.format.value_group = draws.below(2) == 0 ? 0 : c.format.head_dim % 32 == 0 && draws.below(2) == 0 ? 32 : 16;
  c.format.key_norm = !c.format.keys_by_token && draws.below(3) == 0;
  c.key_bits = widths[draws.below(4)], c.value_bits = widths[draws.below(4)];
  c.keys = exact_rows(c.format, draws), c.values = exact_rows(c.format, draws);
  return c;
}

struct PackedByCuda {
  cudaError_t status = cudaSuccess;
  std::vector<uint8_t> page;
  KvPackResultCuda result;
};

// In a batch of two, behind an evicted page.
template <class T, template <class> class Array>
PackedByCuda pack_by_cuda(const PackCudaCase& c, const std::vector<T>& keys, const std::vector<T>& values) {
  const KvPlaces places = kv_places(c.format, c.key_bits, c.value_bits);
  Array<T> k(keys), v(values);
  Array<uint8_t> page(std::vector<uint8_t>(places.bytes, 0xff));
  const KvPackPageCuda<T> evicted{nullptr, nullptr, nullptr, 0, 0};
  Array<KvPackPageCuda<T>> list({evicted, {k.data(), v.data(), page.data(), static_cast<uint8_t>(c.key_bits), static_cast<uint8_t>(c.value_bits)}});
  Array<KvPackResultCuda> results(std::vector<KvPackResultCuda>(2));
  PackedByCuda out;
  out.status = kv_pack_cuda(KvPackCuda<T>{c.format, 2, list.data(), c.format.head_dim, results.data()}, nullptr);
  out.page = page.host(), out.result = results.host()[1];
  return out;
}

// FNV-1a.
inline uint64_t digest(const std::vector<uint8_t>& bytes, uint64_t so_far) {
  for (const uint8_t b : bytes) so_far = (so_far ^ b) * 0x100000001b3ull;
  return so_far;
}
constexpr uint64_t kEmptyDigest = 0xcbf29ce484222325ull;

}  // namespace trimtab
