// The CUDA verification on the host's grid against its definition.
#define TRIMTAB_HOST_GRID
#include "kernels/speculative_verify/speculative_verify_cuda.cu"   // NOLINT

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "kernels/speculative_verify/speculative_verify_cuda_cases.h"

namespace trimtab {
namespace {

void choose_order(int64_t number) {
  host_grid::order() = number % 2 == 0 ? host_grid::Order::kAscending : host_grid::Order::kDescending;
}

TEST(SpeculativeVerifyCuda, EqualsItsDefinitionOnTheHostsGrid) {
  Compared compared;
  for (int64_t vocab = 1; vocab <= 70; vocab += vocab < 34 ? 1 : 3) {
    choose_order(vocab);
    EXPECT_EQ(speculative_verify_cuda_mismatch<HostArray>(vocab, 8, test_seed(), compared), "");
  }
  for (const int64_t vocab : {511, 513, 4096, 9000, 20011}) {   // several levels of a draw
    choose_order(vocab / 2);
    EXPECT_EQ(speculative_verify_cuda_mismatch<HostArray>(vocab, 6, test_seed(), compared), "");
  }
  EXPECT_LE(compared.skipped * 50, compared.all) << compared.all;
}

TEST(SpeculativeVerifyCuda, FaultsAreOfTheirSequence) {
  for (const int64_t vocab : {1, 38}) {
    choose_order(vocab);
    EXPECT_EQ(hostile_mismatch<HostArray>(vocab, CudaVerify{}), "");
  }
  EXPECT_EQ(border_mismatch<HostArray>(CudaVerify{}), "");
}

TEST(SpeculativeVerifyCuda, RefusesWrongShapes) {
  SpeculativeChains chains;
  chains.vocab = chains.p_stride = 8;
  EXPECT_EQ(speculative_verify_cuda(chains, nullptr), cudaSuccess);   // of no sequences
  chains.num_sequences = 1;
  EXPECT_EQ(speculative_verify_cuda(chains, nullptr), cudaErrorInvalidValue);
  chains.num_sequences = 0, chains.p_stride = 7;
  EXPECT_EQ(speculative_verify_cuda(chains, nullptr), cudaErrorInvalidValue);
  SpeculativeTrees trees;
  EXPECT_EQ(speculative_verify_cuda(trees, nullptr), cudaErrorInvalidValue);   // of no tokens
  const float row[1] = {1};
  const double u[1] = {0};
  SpeculativeVerdict verdict[1];
  trees.num_sequences = trees.vocab = trees.p_stride = 1;
  trees.p = row, trees.final_uniform = u, trees.verdict = verdict;
  EXPECT_EQ(speculative_verify_cuda(trees, nullptr), cudaErrorInvalidValue);   // without scratch
}

}  // namespace
}  // namespace trimtab
