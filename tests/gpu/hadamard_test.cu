// The Walsh-Hadamard transform on the device against its definition in double.
#include "kernels/hadamard/hadamard_cuda_cases.h"
#include "tests/gpu/device.h"
#include "tests/gpu/numbers.h"

namespace trimtab::gpu {
namespace {

template <class T>
void check(double tolerance, T (*of)(float), double (*value)(T)) {
  for (int64_t head_dim = 2; head_dim <= 512; head_dim *= 2) {
    const std::string mismatch = hadamard_cuda_mismatch<T, DeviceArray>(head_dim, 101, test_seed(), tolerance, of, value);
    if (mismatch.empty()) continue;
    std::puts(mismatch.c_str());
    std::exit(1);
  }
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  using namespace trimtab::gpu;
  if (no_device()) return kSkipped;
  check(1e-6, float_of, float_value);
  check(1e-3, half_of, half_value);
  check(8e-3, bfloat_of, bfloat_value);
  std::puts("all sizes passed");
  return 0;
}
