// How this process was started: alone, or as one of several by mpirun, srun or torchrun.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/ranks.h"

namespace trimtab {

struct Launch {
  std::string launcher;    // "mpirun", "srun", "torchrun"; empty: alone
  int rank = 0, size = 1;
  int local_rank = 0;      // among the processes of this machine
  // From the environment: Open MPI's OMPI_COMM_WORLD_*, Slurm's SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID (inside a step, which
  // has SLURM_STEP_ID, not in the batch script around it), torchrun's RANK, WORLD_SIZE and LOCAL_RANK. ConfigError where the numbers
  // of a launcher are missing in part, are no numbers or contradict each other.
  static Launch of_environment();
};

// Seconds that a collective waits for the other ranks: TRIMTAB_RANK_TIMEOUT_S, 1800 without it. ConfigError when it is no positive number.
double rank_timeout_s();

// Something that can connect ranks. TT_REGISTER(RanksEntry, mpi, {...}); none is linked in a build without MPI.
struct RanksEntry {
  std::string name, doc;
  std::function<std::unique_ptr<Ranks>(const Launch& launch)> open;
};

// The ranks this process was started among; null when it was started alone. ConfigError when it was started as one of several and this
// build cannot connect them.
std::unique_ptr<Ranks> open_ranks();

// Throws the same ConfigError on every rank unless `text` is the same on all: `what` names it, and the first line that differs is shown.
void expect_same_on_all(Ranks& ranks, const std::string& what, const std::string& text);

}  // namespace trimtab
