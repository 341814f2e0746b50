// Verification of drafted tokens on the device against its definition in double.
#include "kernels/speculative_verify/speculative_verify_cuda_cases.h"
#include "tests/gpu/device.h"

namespace trimtab::gpu {
namespace {

void require_nothing(const std::string& mismatch) {
  if (mismatch.empty()) return;
  std::puts(mismatch.c_str());
  std::exit(1);
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  using namespace trimtab;
  using namespace trimtab::gpu;
  if (no_device()) return kSkipped;
  Compared compared;
  for (int64_t vocab = 1; vocab <= 70; ++vocab) require_nothing(speculative_verify_cuda_mismatch<DeviceArray>(vocab, 64, test_seed(), compared));
  for (const int64_t vocab : {511, 513, 4096, 9000, 32000, 151936})
    require_nothing(speculative_verify_cuda_mismatch<DeviceArray>(vocab, 8, test_seed(), compared));
  if (compared.skipped * 50 > compared.all) require_nothing(std::to_string(compared.skipped) + " sequences lay too near a border");
  for (const int64_t vocab : {1, 5, 70, 1000}) require_nothing(hostile_mismatch<DeviceArray>(vocab, CudaVerify{}));
  require_nothing(border_mismatch<DeviceArray>(CudaVerify{}));
  std::printf("%lld sequences passed, %lld near a border\n", static_cast<long long>(compared.all), static_cast<long long>(compared.skipped));
  return 0;
}
