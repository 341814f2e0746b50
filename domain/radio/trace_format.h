// What a trace file says about itself (shapes, attributes, overrides), checked once and resolved into one
// description that the conversion to gains works from. Nothing here reads the bulk of the file.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "domain/radio/trace.h"
#include "domain/radio/trace_hdf5.h"

namespace trimtab::radio {

enum class Precoder { kMrt, kFirst, kDft, kAverage };

struct TraceFormat {
  TraceInfo info;                // without the hash
  bool has_delays = true;        // "a+tau"; false: "h_freq"
  bool slot_axis = false;        // axis 0 counts slots
  bool tau_per_antenna = false;  // tau has six axes
  int64_t num_bins = 0;          // values on the frequency axis: 12 per PRB, or 1 with granularity "prb"
  int64_t bins_per_prb = 12;
  int64_t serving = 0;
  Precoder precoder = Precoder::kMrt;
  struct Range {
    int64_t first = 0, count = 0;
  };
  std::vector<Range> drops;  // slot axis only: rows of axis 0
  int64_t num_slots(int64_t drop) const {
    return slot_axis ? drops[static_cast<size_t>(drop)].count : info.slots_per_drop;
  }
};

// An open file with its description. Constructing one throws DataError for everything that can be seen from
// outside.
struct OpenTrace {
  OpenTrace(const std::filesystem::path& path, const TraceOptions& options);
  hdf5::File file;
  std::unique_ptr<hdf5::ComplexDataset> bulk;  // a or h_freq
  std::unique_ptr<hdf5::RealDataset> tau;      // a only
  TraceFormat format;
};

}  // namespace trimtab::radio
