// The CUDA transform on the host's grid against its definition.
#define TRIMTAB_HOST_GRID
#include "kernels/hadamard/hadamard_cuda.cu"   // NOLINT

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "kernels/hadamard/hadamard_cuda_cases.h"

namespace trimtab {
namespace {

template <class T>
double value_of(T x) {
  return to_float(x);
}

template <class T>
void expect_definition(double tolerance) {
  for (int64_t head_dim = 2; head_dim <= 512; head_dim *= 2) {
    host_grid::order() = head_dim % 3 == 1 ? host_grid::Order::kAscending : host_grid::Order::kDescending;
    for (const int64_t rows : {1, 4, 5})
      EXPECT_EQ((hadamard_cuda_mismatch<T, HostArray>(head_dim, rows, test_seed(), tolerance, rounded<T>, value_of<T>)), "");
  }
}

TEST(HadamardCuda, EqualsItsDefinitionOnTheHostsGrid) {
  expect_definition<float>(1e-6);
  expect_definition<Float16>(1e-3);
  expect_definition<Bfloat16>(8e-3);
}

TEST(HadamardCuda, RefusesOtherSizes) {
  float x[1] = {};
  for (const int64_t head_dim : {0, 1, 3, 96, 1024}) EXPECT_EQ(hadamard_cuda(x, 1, 1024, head_dim, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(hadamard_cuda(x, 2, 32, 64, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(hadamard_cuda(x, 0, 64, 64, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace trimtab
