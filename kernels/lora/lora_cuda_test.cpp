// The CUDA kernels on the host's grid: the same source, its masks and barriers, against the formulas.
#define TRIMTAB_HOST_GRID
#include "kernels/lora/lora_cuda.cu"   // NOLINT

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "kernels/lora/lora_cuda_cases.h"

namespace trimtab {
namespace {

void choose_order(uint32_t number) {
  host_grid::order() = number % 2 == 0 ? host_grid::Order::kAscending : host_grid::Order::kDescending;
}

TEST(LoraCuda, RowsOfManyAdaptersEqualFloat64OnTheHostsGrid) {
  for (uint32_t i = 0; i < 30; ++i) {
    choose_order(i);
    Draws draws(test_seed(), Stream::kTest, i, 300);
    const LoraCase c = random_lora_case(draws, 100, 200, 6, 12);
    ASSERT_EQ(lora_mismatch<HostArray>(c, CudaLora{}, draws), "") << "case " << i << ", " << c.rows << " rows, in " << c.in << ", out " << c.out;
  }
}

TEST(LoraCuda, AttentionEqualsThatOnMaterialisedValuesOnTheHostsGrid) {
  for (uint32_t i = 0; i < 10; ++i) {
    choose_order(i);
    Draws draws(test_seed(), Stream::kTest, i, 301);
    const LoraAttentionCase c = random_lora_attention(draws, 300, i == 0 ? 256 : 140);
    ASSERT_EQ(lora_attention_mismatch<HostArray>(c, CudaLora{}), "") << "case " << i << ", heads of " << c.head_dim;
  }
}

TEST(LoraCuda, RefusesWrongArguments) {
  LoraShrink s;
  EXPECT_EQ(lora_shrink_cuda(s, nullptr), cudaSuccess);   // of no rows
  s.rows.last_row = 1;
  EXPECT_EQ(lora_shrink_cuda(s, nullptr), cudaErrorInvalidValue);
  LoraExpand e;
  e.last_panel = 1;
  EXPECT_EQ(lora_expand_cuda(e, nullptr), cudaErrorInvalidValue);
  AttentionLora a;
  EXPECT_EQ(attention_lora_cuda(a, nullptr), cudaErrorInvalidValue);
  a.head_dim = 256;
  EXPECT_EQ(attention_lora_cuda(a, nullptr), cudaSuccess);   // of no queries
  a.head_dim = 257;
  EXPECT_EQ(attention_lora_cuda(a, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace trimtab
