// domain/radio: an HDF5 trace of unknown origin. The HDF5 library itself may crash on it, hang or ask for any memory: in the child
// process that reads it first, never here.
#include "core/error.h"
#include "domain/radio/trace.h"
#include "domain/radio/trace_untrusted.h"
#include "fuzz/target.h"

namespace trimtab::fuzz {
namespace {

void run_trace(Bytes input) {
  const std::string file = write_input("trace.h5", input);
  try {
    radio::parse_in_child(file, {}, {.memory_bytes = uint64_t{512} << 20, .cpu_seconds = 1, .wall_seconds = 20});
  } catch (const DataError& error) {
    FUZZ_CHECK(std::string(error.what()).find(file) != std::string::npos);
  }
}

}  // namespace

extern const Target trace;
const Target trace{"trace", run_trace};

}  // namespace trimtab::fuzz
