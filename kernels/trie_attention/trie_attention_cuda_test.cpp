// The CUDA kernel on the host's grid: the same source, its fragments, masks and barriers, against the formulas.
#define TRIMTAB_HOST_GRID
#include "kernels/trie_attention/trie_attention_cuda.cu"   // NOLINT

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "kernels/trie_attention/trie_attention_cuda_cases.h"

namespace trimtab {
namespace {

template <class T>
double value_of(T x) {
  return to_float(x);
}

template <class T>
void expect_formulas(uint32_t cases, double tolerance) {
  for (uint32_t i = 0; i < cases; ++i) {
    host_grid::order() = i % 2 ? host_grid::Order::kAscending : host_grid::Order::kDescending;
    const TrieCase c = random_trie_case(test_seed(), i);
    EXPECT_EQ((trie_attention_cuda_mismatch<T, HostArray>(c, test_seed(), tolerance, rounded<T>, value_of<T>)), "")
        << "case " << i << ": " << c.end.size() << " rows, " << c.heads << " heads of " << c.head_size;
  }
}

TEST(TrieAttentionCuda, EqualsItsFormulasOnTheHostsGrid) {
  expect_formulas<Bfloat16>(4, 0.03);
  expect_formulas<Float16>(4, 0.004);
}

TEST(TrieAttentionCuda, RefusesWhatItCannotRead) {
  TrieAttentionCuda<Float16> a;
  a.rows = 1, a.head_size = 12;
  EXPECT_EQ(trie_attention_forward_cuda(a, nullptr), cudaErrorInvalidValue);
  a.head_size = 136;
  EXPECT_EQ(trie_attention_forward_cuda(a, nullptr), cudaErrorInvalidValue);
  a.head_size = 64, a.heads = 3, a.kv_heads = 2;
  EXPECT_EQ(trie_attention_forward_cuda(a, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace trimtab
