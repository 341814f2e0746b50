// Ranks over MPI (any library of standard 3.1; built and run with Open MPI 4.1).
//
// Only collectives that do not add are used, and the adding is ours, so its order is fixed (core/ranks.h): a small sum is one
// all-gather; a large one sends every piece to the rank that owns it, which adds and gives the sum back to all. Each rank sends
// 2 (n - 1) / n of a large sum's bytes, as a ring does, in two steps instead of 2 (n - 1).
//
// Every collective is non-blocking and waited for with a time-out: RunError that names rank, operation and what was going on. A rank
// that ends by an error leaves without MPI_Finalize, at which mpirun ends all of them (srun: --kill-on-bad-exit=1).
#pragma once

#include <memory>

#include "core/launch.h"

namespace trimtab {

// Starts MPI in this process, once; it ends with the process. ConfigError when MPI knows another number of ranks than the launcher has
// set (torchrun connects nobody to MPI).
std::unique_ptr<Ranks> open_mpi_ranks(const Launch& launch, double timeout_s);

}  // namespace trimtab
