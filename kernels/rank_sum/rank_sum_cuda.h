// Sums over ranks of buffers that lie on GPUs, by NCCL: the twin of Ranks::sum_scatter (core/ranks.h), which works on the CPU's memory.
// The id that joins the ranks is made by one of them and goes to the others by whatever connects them already (Ranks::from_main over MPI):
//
//   char id[kRankSumIdBytes];
//   if (rank == 0) rank_sum_id(id);                 // then give it to all
//   RankSum* sum = nullptr;
//   int status = rank_sum_open(&sum, id, rank, size, 60);
//   rank_sum_scatter(sum, buffer, begin, stream, 60), rank_sum_wait(sum, stream, 60);
//
// Every function that returns a number returns 0, or a code that rank_sum_error() puts into words. All ranks make the same calls in the same
// order, each on a device of its own: NCCL refuses two of them on one. The order of additions is NCCL's: equal on repetition with
// equal ranks, and not that of the CPU. Who waits for a rank that does not come gets kRankSumTimedOut; the communicator is then of no more
// use but to be closed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace trimtab {

constexpr int kRankSumIdBytes = 128, kRankSumDeviceBytes = 16, kRankSumTimedOut = -1;

struct RankSum;   // one communicator, on the device that was current when it was opened

int rank_sum_id(char* id);           // [kRankSumIdBytes]
int rank_sum_device(char* device);   // [kRankSumDeviceBytes] of the current device, like no other's on any machine
int rank_sum_open(RankSum** out, const char* id, int rank, int size, double timeout_s);
// buffer [n] f32 on the device, begin [ranks + 1] on the CPU, from 0 to n: rank r's piece [begin[r], begin[r + 1]) holds the sum over
// ranks on rank r, in place; the rest is undefined. Ordered after what is in `stream`, and not waited for;
// but the first may wait for all ranks to connect.
int rank_sum_scatter(RankSum* ranks, float* buffer, const int64_t* begin, cudaStream_t stream, double timeout_s);
// Until all of `stream` is done.
int rank_sum_wait(RankSum* ranks, cudaStream_t stream, double timeout_s);
// Ends what hangs too; null is nothing.
void rank_sum_close(RankSum* ranks);
const char* rank_sum_error(int status);

}  // namespace trimtab
