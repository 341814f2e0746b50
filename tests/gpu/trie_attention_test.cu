// Trie attention on the device against its formulas in double.
#include "kernels/trie_attention/trie_attention_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/trie_attention/trie_attention_cuda_cases.h"
#include "tests/gpu/device.h"

namespace trimtab::gpu {
namespace {

Float16 half_of(float x) { return {__half_raw(__float2half_rn(x)).x}; }
double half_value(Float16 x) { return __half2float(__half_raw{x.bits}); }
Bfloat16 bfloat_of(float x) { return {__nv_bfloat16_raw(__float2bfloat16_rn(x)).x}; }
double bfloat_value(Bfloat16 x) { return __bfloat162float(__nv_bfloat16_raw{x.bits}); }

}  // namespace
}  // namespace trimtab::gpu

int main() {
  using namespace trimtab;
  using namespace trimtab::gpu;
  if (no_device()) return kSkipped;
  for (uint32_t i = 0; i < 50; ++i) {
    const TrieCase c = random_trie_case(test_seed(), i);
    require_nothing(trie_attention_cuda_mismatch<Bfloat16, DeviceArray>(c, test_seed(), 0.03, bfloat_of, bfloat_value), i);
    require_nothing(trie_attention_cuda_mismatch<Float16, DeviceArray>(c, test_seed(), 0.004, half_of, half_value), i);
  }
  std::puts("100 cases passed");
  return 0;
}
