// Adapters on the device against their formulas in double.
#include "kernels/lora/lora_cuda_cases.h"
#include "tests/gpu/device.h"

int main() {
  using namespace trimtab;
  using namespace trimtab::gpu;
  if (no_device()) return kSkipped;
  for (uint32_t i = 0; i < 100; ++i) {
    Draws draws(gpu::test_seed(), Stream::kTest, i, 300);
    require_nothing(lora_mismatch<DeviceArray>(random_lora_case(draws, i % 10 == 0 ? 4096 : 200, i % 10 == 0 ? 4096 : 300, 8, 40), CudaLora{}, draws), i);
    require_nothing(lora_attention_mismatch<DeviceArray>(random_lora_attention(draws, i % 10 == 0 ? 3000 : 300, 256), CudaLora{}), i);
  }
  std::puts("200 cases passed");
  return 0;
}
