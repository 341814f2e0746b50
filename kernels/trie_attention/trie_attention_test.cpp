// The kernel in f32 and f64 against the formulas of trie_attention.h written out in double, on rows further apart than they are
// long, with grouped heads; policies/language/ops has many more cases through autograd.
#include "kernels/trie_attention/trie_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

class TrieAttentionTest : public EveryTarget {};
TT_ON_EVERY_TARGET(TrieAttentionTest);

constexpr int64_t kPrompt = 137, kHeads = 2, kSize = 20, kStride = 47, kKeyStride = 23;
const std::vector<AttentionSegment> kSegments = {{0, kPrompt, 200, 0}, {137, 1, 138, 137}, {138, 0, 200, 137}, {138, 62, 200, 137}};
constexpr int64_t kRows = 200;

bool sees(int64_t row, int64_t key) {
  if (key > row) return false;
  for (const AttentionSegment& s : kSegments)
    if (key >= s.first && key < s.first + s.length) return row < s.end;
  return false;
}

template <class T>
struct Arrays {
  std::vector<T> q, k, v, d_out, out, lse, scratch, d_q, d_k, d_v;
  explicit Arrays(Draws& draws)
      : q(random(draws, kRows * kStride)), k(random(draws, kRows * kKeyStride)), v(random(draws, kRows * kKeyStride)),
        d_out(random(draws, kRows * kStride)), out(kRows * kStride, NAN), lse(kRows * kHeads, NAN), scratch(kRows * kHeads, NAN),
        d_q(kRows * kStride, NAN), d_k(kRows * kKeyStride, NAN), d_v(kRows * kKeyStride, NAN) {}
  static std::vector<T> random(Draws& draws, int64_t n) {
    std::vector<T> x(n);
    for (T& value : x) value = static_cast<T>(2 * draws.normal());
    return x;
  }
  void run() {
    const auto segments = static_cast<int64_t>(kSegments.size());
    trie_attention_forward(TrieAttentionForward<T>{kSegments.data(), segments, kHeads, kSize, 0.3, {q.data(), kStride, kSize}, k.data(), kKeyStride,
                                                   v.data(), kKeyStride, {out.data(), kStride, kSize}, {lse.data(), kHeads, 1},
                                                   {scratch.data(), kHeads, 1}});
    trie_attention_backward(TrieAttentionBackward<T>{kSegments.data(), segments, kHeads, kSize, 0.3, {q.data(), kStride, kSize},
                                                     {out.data(), kStride, kSize}, {lse.data(), kHeads, 1}, {d_out.data(), kStride, kSize},
                                                     k.data(), kKeyStride, v.data(), kKeyStride, {scratch.data(), kHeads, 1},
                                                     {d_q.data(), kStride, kSize}, d_k.data(), kKeyStride, d_v.data(), kKeyStride});
  }
};

template <class T>
double dot(const T* a, const T* b) {
  double sum = 0;
  for (int64_t i = 0; i < kSize; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

template <class T>
void expect_near_definition(const Arrays<T>& a, double tolerance) {
  std::vector<double> d_k(kRows * kSize), d_v(kRows * kSize);
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t head = 0; head < kHeads; ++head) {
      const int64_t at = row * kStride + head * kSize;
      std::vector<double> p(kRows), out(kSize), d_q(kSize);
      double total = 0, delta = 0;
      for (int64_t j = 0; j < kRows; ++j)
        if (sees(row, j)) total += p[j] = std::exp(0.3 * dot(&a.q[at], &a.k[j * kKeyStride]));
      for (int64_t j = 0; j < kRows; ++j)
        for (int64_t i = 0; i < kSize; ++i) out[i] += (p[j] / total) * static_cast<double>(a.v[j * kKeyStride + i]);
      for (int64_t i = 0; i < kSize; ++i) delta += out[i] * static_cast<double>(a.d_out[at + i]);
      for (int64_t j = 0; j < kRows; ++j) {
        const double weight = p[j] / total, ds = 0.3 * weight * (dot(&a.d_out[at], &a.v[j * kKeyStride]) - delta);
        for (int64_t i = 0; i < kSize; ++i) {
          d_q[i] += ds * static_cast<double>(a.k[j * kKeyStride + i]);
          d_k[j * kSize + i] += ds * static_cast<double>(a.q[at + i]);
          d_v[j * kSize + i] += weight * static_cast<double>(a.d_out[at + i]);
        }
      }
      ASSERT_NEAR(a.lse[row * kHeads + head], std::log(total), tolerance) << row;
      for (int64_t i = 0; i < kSize; ++i) {
        ASSERT_NEAR(a.out[at + i], out[i], tolerance) << row;
        ASSERT_NEAR(a.d_q[at + i], d_q[i], tolerance * 10) << row;
      }
    }
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t i = 0; i < kSize; ++i) {
      ASSERT_NEAR(a.d_k[row * kKeyStride + i], d_k[row * kSize + i], tolerance * 100) << row;
      ASSERT_NEAR(a.d_v[row * kKeyStride + i], d_v[row * kSize + i], tolerance * 100) << row;
    }
}

TEST_P(TrieAttentionTest, equals_its_formulas_forward_and_backward) {
  Draws draws(test_seed(), Stream::kTest, 21);
  Arrays<double> in_double(draws);
  in_double.run();
  expect_near_definition(in_double, 1e-12);
  Arrays<float> in_single(draws);
  in_single.run();
  expect_near_definition(in_single, 2e-5);
}

TEST_P(TrieAttentionTest, leaves_the_gaps_between_rows_alone) {
  Draws draws(test_seed(), Stream::kTest, 22);
  Arrays<float> a(draws);
  a.run();
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t i = kHeads * kSize; i < kStride; ++i) EXPECT_TRUE(std::isnan(a.out[row * kStride + i]) && std::isnan(a.d_q[row * kStride + i]));
    for (int64_t i = kSize; i < kKeyStride; ++i) EXPECT_TRUE(std::isnan(a.d_k[row * kKeyStride + i]) && std::isnan(a.d_v[row * kKeyStride + i]));
  }
}

TEST_P(TrieAttentionTest, no_segments_are_no_work) { trie_attention_forward(TrieAttentionForward<float>{nullptr, 0, 1, 4, 1, {nullptr, 4, 4}, nullptr, 4, nullptr, 4, {}, {}, {}}); }

}  // namespace
}  // namespace trimtab
