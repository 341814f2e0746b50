#include <nccl.h>

#include <cstring>
#include <new>

#include "kernels/rank_sum/rank_sum_cuda.h"

namespace trimtab {

static_assert(sizeof(ncclUniqueId) == kRankSumIdBytes, "NCCL's id");

struct RankSum {
  ncclComm_t comm = nullptr;
};

int rank_sum_id(char* id) {
  ncclUniqueId made;
  const ncclResult_t status = ncclGetUniqueId(&made);
  if (status == ncclSuccess) std::memcpy(id, &made, sizeof(made));
  return status;
}

int rank_sum_open(RankSum** out, const char* id, int rank, int size) {
  ncclUniqueId of_all;
  std::memcpy(&of_all, id, sizeof(of_all));
  auto* ranks = new (std::nothrow) RankSum;
  if (!ranks) return ncclSystemError;
  const ncclResult_t status = ncclCommInitRank(&ranks->comm, size, of_all, rank);
  if (status != ncclSuccess) {
    delete ranks;
    return status;
  }
  *out = ranks;
  return ncclSuccess;
}

int rank_sum(RankSum* ranks, float* buffer, int64_t n, cudaStream_t stream) {
  return ncclAllReduce(buffer, buffer, static_cast<size_t>(n), ncclFloat, ncclSum, ranks->comm, stream);
}

void rank_sum_close(RankSum* ranks) {
  if (!ranks) return;
  ncclCommAbort(ranks->comm);
  delete ranks;
}

const char* rank_sum_error(int status) { return ncclGetErrorString(static_cast<ncclResult_t>(status)); }

}  // namespace trimtab
