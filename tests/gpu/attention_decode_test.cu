// Attention on packed pages on the device against its definition in double.
#include "kernels/attention_decode/attention_decode_cuda_cases.h"
#include "tests/gpu/device.h"
#include "tests/gpu/numbers.h"

namespace trimtab::gpu {
namespace {

template <class T>
void check(uint32_t number, double tolerance, T (*of)(float), double (*value)(T)) {
  const DecodeNumbers<T> numbers{of, value, half_of, half_value};
  const DecodeCase c = random_decode_case<T>(test_seed(), number, numbers);
  const std::string mismatch = attention_decode_cuda_mismatch<T, DeviceArray>(c, test_seed() + number, tolerance, numbers);
  if (mismatch.empty()) return;
  std::printf("case %u: %s\n", number, mismatch.c_str());
  std::exit(1);
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  using namespace trimtab::gpu;
  if (no_device()) return kSkipped;
  for (uint32_t i = 0; i < 100; ++i) {
    check(i, 2e-3, float_of, float_value);
    check(i, 3e-3, half_of, half_value);
    check(i, 8e-3, bfloat_of, bfloat_value);
  }
  std::puts("300 cases passed");
  return 0;
}
