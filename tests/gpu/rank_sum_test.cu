// Sums over all GPUs of this machine, one rank each in a thread of its own.
#include <cstring>
#include <thread>

#include "kernels/rank_sum/rank_sum_cuda.h"
#include "tests/gpu/device.h"

namespace trimtab::gpu {
namespace {

constexpr int64_t kSize = 100'003;

float value(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 101) / 8; }   // sums are exact

void check_rank(const char* id, int rank, int size) {
  require(cudaSetDevice(rank), "cudaSetDevice");
  RankSum* sum = nullptr;
  if (const int status = rank_sum_open(&sum, id, rank, size)) {
    std::printf("rank_sum_open: %s\n", rank_sum_error(status));
    std::exit(1);
  }
  std::vector<float> host(kSize);
  for (int64_t i = 0; i < kSize; ++i) host[i] = value(rank, i);
  DeviceArray<float> device(host);
  if (const int status = rank_sum(sum, device.data(), kSize, nullptr)) {
    std::printf("rank_sum: %s\n", rank_sum_error(status));
    std::exit(1);
  }
  require(cudaDeviceSynchronize(), "the sum");
  const std::vector<float> found = device.host();
  for (int64_t i = 0; i < kSize; ++i) {
    double expected = 0;
    for (int r = 0; r < size; ++r) expected += value(r, i);
    require_near(found[i], expected, 0, "sum", i);
  }
  rank_sum_close(sum);
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  using namespace trimtab;
  if (gpu::no_device()) return gpu::kSkipped;
  int devices = 0;
  gpu::require(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  char id[kRankSumIdBytes];
  if (const int status = rank_sum_id(id)) {
    std::printf("rank_sum_id: %s\n", rank_sum_error(status));
    return 1;
  }
  std::vector<std::thread> ranks;
  for (int r = 0; r < devices; ++r) ranks.emplace_back([&, r] { gpu::check_rank(id, r, devices); });
  for (std::thread& t : ranks) t.join();
  std::printf("%d ranks\n", devices);
  return 0;
}
