#include <nccl.h>

#include <chrono>
#include <cstring>
#include <new>
#include <thread>

#include "kernels/rank_sum/rank_sum_cuda.h"

namespace trimtab {

static_assert(sizeof(ncclUniqueId) == kRankSumIdBytes, "NCCL's id");
static_assert(sizeof(cudaUUID_t) == kRankSumDeviceBytes, "CUDA's UUID");

struct RankSum {
  ncclComm_t comm = nullptr;
  int rank = 0, size = 0;
};

namespace {

constexpr int kCudaFailed = -2;
constexpr std::chrono::microseconds kPause(50);

// Calls `state` until it is no longer ncclInProgress.
template <class State>
int settled(double timeout_s, State state) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    const int now = state();
    if (now != ncclInProgress) return now;
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > timeout_s) return kRankSumTimedOut;
    std::this_thread::sleep_for(kPause);
  }
}

int state_of(const RankSum& ranks) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(ranks.comm, &state);
  return asked != ncclSuccess ? asked : state;
}

// What a call on a communicator that does not block has answered: it may still be under way.
int accepted(const RankSum& ranks, ncclResult_t answer, double timeout_s) {
  return answer == ncclInProgress ? settled(timeout_s, [&] { return state_of(ranks); }) : answer;
}

}  // namespace

int rank_sum_id(char* id) {
  ncclUniqueId made;
  const ncclResult_t status = ncclGetUniqueId(&made);
  if (status == ncclSuccess) std::memcpy(id, &made, sizeof(made));
  return status;
}

int rank_sum_device(char* device) {
  int current = 0;
  cudaDeviceProp properties;
  if (cudaGetDevice(&current) != cudaSuccess || cudaGetDeviceProperties(&properties, current) != cudaSuccess) return kCudaFailed;
  std::memcpy(device, &properties.uuid, sizeof(properties.uuid));
  return ncclSuccess;
}

int rank_sum_open(RankSum** out, const char* id, int rank, int size, double timeout_s) {
  ncclUniqueId of_all;
  std::memcpy(&of_all, id, sizeof(of_all));
  auto* ranks = new (std::nothrow) RankSum;
  if (!ranks) return ncclSystemError;
  ranks->rank = rank, ranks->size = size;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;   // a rank that never comes is a time-out
  const int status = accepted(*ranks, ncclCommInitRankConfig(&ranks->comm, size, of_all, rank, &config), timeout_s);
  if (status != ncclSuccess) {
    rank_sum_close(ranks);
    return status;
  }
  *out = ranks;
  return ncclSuccess;
}

// Pieces differ in size, so it is one reduction per rank instead of ncclReduceScatter; NCCL runs those of a group at once.
int rank_sum_scatter(RankSum* ranks, float* buffer, const int64_t* begin, cudaStream_t stream, double timeout_s) {
  ncclGroupStart();
  ncclResult_t failed = ncclSuccess;
  for (int r = 0; r < ranks->size; ++r) {
    float* piece = buffer + begin[r];
    const ncclResult_t one = ncclReduce(piece, piece, static_cast<size_t>(begin[r + 1] - begin[r]), ncclFloat, ncclSum, r, ranks->comm, stream);
    if (one != ncclSuccess && one != ncclInProgress) failed = one;
  }
  const int ended = accepted(*ranks, ncclGroupEnd(), timeout_s);   // the first sum may connect the ranks: it waits for all of them
  return failed != ncclSuccess ? failed : ended;
}

int rank_sum_wait(RankSum* ranks, cudaStream_t stream, double timeout_s) {
  return settled(timeout_s, [&]() -> int {
    const cudaError_t done = cudaStreamQuery(stream);
    if (done == cudaSuccess) return ncclSuccess;
    if (done != cudaErrorNotReady) return kCudaFailed;
    (void)cudaGetLastError();   // "not ready" would stay the thread's last error, and fail the next launch that asks for it
    const int state = state_of(*ranks);
    return state == ncclSuccess ? ncclInProgress : state;
  });
}

void rank_sum_close(RankSum* ranks) {
  if (!ranks) return;
  if (ranks->comm) ncclCommAbort(ranks->comm);
  delete ranks;
}

const char* rank_sum_error(int status) {
  if (status == kRankSumTimedOut) return "timed out: another rank has stopped or hangs";
  if (status == kCudaFailed) return cudaGetErrorString(cudaGetLastError());
  return ncclGetErrorString(static_cast<ncclResult_t>(status));
}

}  // namespace trimtab
