// libFuzzer's entry for one target, which the build names: TRIMTAB_FUZZ_TARGET.
#include "fuzz/target.h"

namespace trimtab::fuzz {
extern const Target TRIMTAB_FUZZ_TARGET;
}

// An exception that comes out ends the process: libFuzzer keeps the input.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  trimtab::fuzz::run_bounded(trimtab::fuzz::TRIMTAB_FUZZ_TARGET, {data, size});
  return 0;
}
