// Sums over all GPUs of this machine, one rank each in a thread of its own, and a rank that waits in vain.
#include <cstring>
#include <thread>

#include "kernels/rank_sum/rank_sum_cuda.h"
#include "tests/gpu/device.h"

namespace trimtab::gpu {
namespace {

constexpr int64_t kSize = 100'003;
constexpr double kTimeout = 60;   // seconds

float value(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 101) / 8; }   // sums are exact

void require_done(int status, const char* what) {
  if (status == 0) return;
  std::printf("%s: %s\n", what, rank_sum_error(status));
  std::exit(1);
}

// Pieces that differ in size; the first is empty where there are several.
std::vector<int64_t> pieces(int size) {
  std::vector<int64_t> begin(size + 1, kSize);
  for (int r = 0; r < size; ++r) begin[r] = size > 1 && r <= 1 ? 0 : kSize * r * r / (size * size);
  return begin;
}

void check_rank(const char* id, int rank, int size) {
  require(cudaSetDevice(rank), "cudaSetDevice");
  RankSum* sum = nullptr;
  require_done(rank_sum_open(&sum, id, rank, size, kTimeout), "rank_sum_open");
  std::vector<float> host(kSize);
  for (int64_t i = 0; i < kSize; ++i) host[i] = value(rank, i);
  DeviceArray<float> device(host);
  const std::vector<int64_t> begin = pieces(size);
  require_done(rank_sum_scatter(sum, device.data(), begin.data(), nullptr, kTimeout), "rank_sum_scatter");
  require_done(rank_sum_wait(sum, nullptr, kTimeout), "rank_sum_wait");
  require(cudaGetLastError(), "what the waiting leaves behind");
  const std::vector<float> found = device.host();
  for (int64_t i = begin[rank]; i < begin[rank + 1]; ++i) {
    double expected = 0;
    for (int r = 0; r < size; ++r) expected += value(r, i);
    require_near(found[i], expected, 0, "sum", i);
  }
  rank_sum_close(sum);
}

// The first of two ranks, whose partner never comes.
void check_time_out() {
  char id[kRankSumIdBytes];
  require_done(rank_sum_id(id), "rank_sum_id");
  RankSum* sum = nullptr;
  const int status = rank_sum_open(&sum, id, 0, 2, 1.0);
  if (status == kRankSumTimedOut && sum == nullptr) return;
  std::printf("rank_sum_open without a partner: status %d\n", status);
  std::exit(1);
}

}  // namespace
}  // namespace trimtab::gpu

int main() {
  using namespace trimtab;
  if (gpu::no_device()) return gpu::kSkipped;
  int devices = 0;
  gpu::require(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  char id[kRankSumIdBytes], device[kRankSumDeviceBytes];
  gpu::require_done(rank_sum_device(device), "rank_sum_device");
  gpu::require_done(rank_sum_id(id), "rank_sum_id");
  std::vector<std::thread> ranks;
  for (int r = 0; r < devices; ++r) ranks.emplace_back([&, r] { gpu::check_rank(id, r, devices); });
  for (std::thread& t : ranks) t.join();
  gpu::check_time_out();
  std::printf("%d ranks\n", devices);
  return 0;
}
