// Packing on the device gives the bytes that the CPU gives, known by their digest.
#include "kernels/kv_pack/kv_pack_cuda_cases.h"
#include "tests/gpu/device.h"

int main() {
  using namespace trimtab;
  using namespace trimtab::gpu;
  if (no_device()) return kSkipped;
  uint64_t all = kEmptyDigest;
  for (uint32_t i = 0; i < kPackCases; ++i) {
    const PackCudaCase c = pack_cuda_case(i);
    const PackedByCuda packed = pack_by_cuda<float, DeviceArray>(c, c.keys, c.values);
    require(packed.status, "kv_pack_cuda");
    require_near(packed.result.bad_token, -1, 0, "bad_token", i);
    all = digest(packed.page, all);
  }
  if (all != kPackDigest) {
    std::printf("%u pages have digest %016llx, not the CPU's\n", kPackCases, static_cast<unsigned long long>(all));
    return 1;
  }
  std::printf("%u pages equal the CPU's\n", kPackCases);
  return 0;
}
