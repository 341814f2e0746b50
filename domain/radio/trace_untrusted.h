// Reading files of unknown origin: a child process with bounded memory and time parses the file first.
#pragma once

#include <cstdint>
#include <filesystem>

#include "domain/radio/trace.h"

namespace trimtab::radio {

// What the child may take. It may write no file at all.
struct ChildLimits {
  uint64_t memory_bytes = uint64_t{4} << 30;  // beyond what the process holds already
  unsigned cpu_seconds = 300;
  unsigned wall_seconds = 900;
};

// Inspects the whole file in a forked child. Returns when the child found nothing wrong; throws DataError
// naming the file, with the child's own message, or one that says how the child ended (a crash in the HDF5
// library, too much memory, too much time).
void parse_in_child(const std::filesystem::path& file, const TraceOptions& options,
                    const ChildLimits& limits = {});

}  // namespace trimtab::radio
