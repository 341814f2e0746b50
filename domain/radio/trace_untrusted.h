// Reading files of unknown origin: a child process with bounded memory and time parses the file first.
#pragma once

#include <filesystem>

#include "domain/radio/trace.h"

namespace trimtab::radio {

// Inspects the whole file in a forked child. Returns when the child found nothing wrong; throws DataError
// with the child's own message, or one that says how the child ended (a crash in the HDF5 library, too much
// memory, too much time).
void parse_in_child(const std::filesystem::path& file, const TraceOptions& options);

}  // namespace trimtab::radio
