// Reading pieces of a trace and turning them into gains.
#pragma once

#include <span>

#include "domain/radio/trace_format.h"

namespace trimtab::radio {

// Gains of chosen slots of a drop, in the order given. Thread-safe; holds the HDF5 lock only while it reads.
DropGains convert_slots(const OpenTrace& trace, int64_t drop, std::span<const int64_t> slots);
DropGains convert_drop(const OpenTrace& trace, int64_t drop);

}  // namespace trimtab::radio
