// Sums over ranks of buffers that lie on GPUs, by NCCL: the twin of Ranks::sum_scatter and gather_pieces (core/ranks.h), which work on
// the CPU's memory. The id that joins the ranks is made by one of them and goes to the others by whatever connects them already
// (Ranks::from_main over MPI):
//
//   char id[kRankSumIdBytes];
//   if (rank == 0) rank_sum_id(id);                 // then give it to all
//   RankSum* sum = nullptr;
//   int status = rank_sum_open(&sum, id, rank, size);
//
// Every function returns 0, or a code that rank_sum_error() puts into words. All ranks make the same calls in the same order. The order of
// additions is NCCL's: equal on repetition with equal ranks, and not that of the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace trimtab {

constexpr int kRankSumIdBytes = 128;

struct RankSum;   // one communicator, on the device that was current when it was opened

int rank_sum_id(char* id);   // [kRankSumIdBytes]
int rank_sum_open(RankSum** out, const char* id, int rank, int size);
// buffer [n] f32 on the device: the sum over ranks, in place; ordered after what is in `stream`, and not waited for.
int rank_sum(RankSum* ranks, float* buffer, int64_t n, cudaStream_t stream);
// Ends what hangs too; null is nothing.
void rank_sum_close(RankSum* ranks);
const char* rank_sum_error(int status);

}  // namespace trimtab
