// Checks of the CUDA kernel against its formulas in double, wherever it runs: Array<T> is device memory (tests/gpu/device.h) or the host's
// (kernels/cuda_device/host_grid.h).
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/trie_attention/trie_attention_cuda.h"

namespace trimtab {

struct TrieCase {
  std::vector<int32_t> end;
  int64_t heads = 1, kv_heads = 1, head_size = 8;
};

// Roots with up to three levels, lengths 0 to 70.
inline TrieCase random_trie_case(uint64_t seed, uint32_t number) {
  Draws draws(seed, Stream::kTest, number, 91);
  const int64_t sizes[] = {8, 32, 40, 64, 96, 128};
  TrieCase out{{}, 1, 1 + draws.below(2), sizes[draws.below(6)]};
  out.heads = out.kv_heads * (1 + draws.below(3));
  const auto grow = [&](const auto& self, int level) -> void {
    const size_t first = out.end.size(), length = level == 0 && draws.below(3) == 0 ? 65 : draws.below(71);
    out.end.resize(first + length);
    for (uint32_t child = 0, children = level < 2 ? draws.below(4) : 0; child < children && out.end.size() < 200; ++child) self(self, level + 1);
    for (size_t j = first; j < first + length; ++j) out.end[j] = static_cast<int32_t>(out.end.size());
  };
  for (uint32_t root = 0, roots = 1 + draws.below(3); root < roots; ++root) grow(grow, 0);
  return out;
}

template <class T>
std::vector<T> random_rows(Draws& draws, int64_t count, T (*of)(float)) {
  std::vector<T> out(count);
  for (T& x : out) x = of(draws.normal());
  return out;
}

// What differs from the formulas by more than `tolerance` (times what a sum over many rows adds to it), or nothing. `of` and `value` convert.
template <class T, template <class> class Array>
std::string trie_attention_cuda_mismatch(const TrieCase& c, uint64_t seed, double tolerance, T (*of)(float), double (*value)(T)) {
  const auto rows = static_cast<int64_t>(c.end.size());
  const int64_t width = c.heads * c.head_size, kv_width = c.kv_heads * c.head_size, stride = width + 2 * kv_width + 8;   // q, k and v side by side
  Draws draws(seed, Stream::kTest, 92);
  const float scale = 1 / std::sqrt(static_cast<float>(c.head_size));
  const std::vector<T> qkv = random_rows(draws, rows * stride, of), d_out = random_rows(draws, rows * width, of);
  Array<T> x(qkv), dy(d_out), y(std::vector<T>(rows * width)), dx(std::vector<T>(rows * stride));
  Array<float> lse(std::vector<float>(rows * c.heads)), delta(std::vector<float>(rows * c.heads));
  Array<int32_t> end(c.end);
  TrieAttentionCuda<T> a;
  a.rows = rows, a.end = end.data(), a.heads = c.heads, a.kv_heads = c.kv_heads, a.head_size = c.head_size, a.scale = scale;
  a.q = x.data(), a.k = x.data() + width, a.v = x.data() + width + kv_width;
  a.q_stride = a.k_stride = a.v_stride = stride, a.out = y.data(), a.out_stride = width, a.lse = lse.data();
  TrieAttentionGradientCuda<T> g;
  g.forward = a, g.d_out = dy.data(), g.d_out_stride = width, g.delta = delta.data();
  g.d_q = dx.data(), g.d_k = dx.data() + width, g.d_v = dx.data() + width + kv_width, g.d_q_stride = g.d_k_stride = g.d_v_stride = stride;
  if (trie_attention_forward_cuda(a, nullptr) != cudaSuccess || trie_attention_backward_cuda(g, nullptr) != cudaSuccess) return "a launch failed";
  const std::vector<T> out = y.host(), gradient = dx.host();
  const std::vector<float> log_sum = lse.host();

  std::vector<double> d_qkv(rows * stride);
  const auto at = [&](const std::vector<T>& from, int64_t i) { return value(from[i]); };
  const auto wrong = [&](const char* what, int64_t row, double got, double expected, double within) {
    if (std::abs(got - expected) <= within) return std::string();   // false for NaN too
    return std::string(what) + " of row " + std::to_string(row) + ": " + std::to_string(got) + " instead of " + std::to_string(expected);
  };
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < c.heads; ++head) {
      const int64_t q = row * stride + head * c.head_size, kv = head / (c.heads / c.kv_heads) * c.head_size, o = row * width + head * c.head_size;
      const auto key = [&](int64_t j) { return j * stride + width + kv; };
      const auto val = [&](int64_t j) { return j * stride + width + kv_width + kv; };
      std::vector<double> p(rows), expected(c.head_size);
      double total = 0, dot_out = 0;
      for (int64_t j = 0; j <= row; ++j) {
        if (row >= c.end[j]) continue;
        double score = 0;
        for (int64_t i = 0; i < c.head_size; ++i) score += at(qkv, q + i) * at(qkv, key(j) + i);
        total += p[j] = std::exp(scale * score);
      }
      for (int64_t j = 0; j <= row; ++j)
        for (int64_t i = 0; i < c.head_size; ++i) expected[i] += p[j] / total * at(qkv, val(j) + i);
      std::string error = wrong("lse", row, log_sum[row * c.heads + head], std::log(total), 1e-4);
      for (int64_t i = 0; i < c.head_size && error.empty(); ++i) error = wrong("out", row, at(out, o + i), expected[i], tolerance);
      if (!error.empty()) return error;
      for (int64_t i = 0; i < c.head_size; ++i) dot_out += expected[i] * at(d_out, o + i);
      for (int64_t j = 0; j <= row; ++j) {
        if (p[j] == 0) continue;
        double dp = 0;
        for (int64_t i = 0; i < c.head_size; ++i) dp += at(d_out, o + i) * at(qkv, val(j) + i);
        const double weight = p[j] / total, ds = scale * weight * (dp - dot_out);
        for (int64_t i = 0; i < c.head_size; ++i) {
          d_qkv[q + i] += ds * at(qkv, key(j) + i);
          d_qkv[key(j) + i] += ds * at(qkv, q + i);
          d_qkv[val(j) + i] += weight * at(d_out, o + i);
        }
      }
    }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < stride; ++i) {
      const double expected = d_qkv[row * stride + i], got = at(gradient, row * stride + i);
      const std::string error = wrong(i < width ? "d_q" : i < width + kv_width ? "d_k" : "d_v", row, got, expected, tolerance * (2 + std::abs(expected)));
      if (!error.empty()) return error;
    }
  return "";
}

}  // namespace trimtab
