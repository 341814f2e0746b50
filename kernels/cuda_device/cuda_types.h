// What the contracts of CUDA kernels name: streams and errors, from the CUDA toolkit or, where a kernel is compiled for the host's
// grid (host_grid.h), stand-ins of the same names; and the 16-bit numbers as bits, without the toolkit's types.
#pragma once

#include <cstdint>

#ifdef TRIMTAB_HOST_GRID
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = struct HostGridStream*;
#else
#include <cuda_runtime_api.h>
#endif

namespace trimtab {

struct Float16 {    // IEEE 754 binary16
  uint16_t bits;
};
struct Bfloat16 {   // the upper half of a float
  uint16_t bits;
};

}  // namespace trimtab
