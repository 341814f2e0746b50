// Recordings: traces measured once and replayed by an environment, in one format for all environments.
//
// A safetensors file. Its tensors are columns, f32 or i64, of equally many rows: [rows] or [rows, width]. Its metadata has one key,
// "recording", a JSON index that says whose they are, what they mean and which rows are one episode:
//
//   {"recording_version": 1, "environment": "draft_length", "facts": {"producer": "..."},
//    "columns": {"accepted": {"unit": "tokens", "doc": "...", "low": 0, "high": null}},        null: no bound
//    "episodes": [{"first": 0, "rows": 12, "labels": {"category": "code"}}]}
//
// Reading is strict: whoever replays a recording need not look at its numbers again. Every fault is a DataError that names file,
// column and row (from 0), what was expected and what to do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.h"

namespace trimtab {

// Rows [first, first + rows) of every column. Episodes lie one after another and leave no row out; rows >= 1.
struct RecordedEpisode {
  int64_t first = 0, rows = 0;
  std::map<std::string, std::string> labels;   // "category": "code", "prompt": "17"
};

struct RecordedColumn {
  std::string unit, doc;                       // "tokens", "ns"; empty: dimensionless
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();   // what values may be, inclusive
  Tensor values;                               // F32 (always finite) or I64 (tokens); [rows] or [rows, width]

  int64_t rows() const { return values.shape.at(0); }
  int64_t width() const { return values.shape.size() == 1 ? 1 : values.shape.at(1); }   // numbers in a row
};

struct Recording {
  std::string environment;                     // whose: only this one replays it
  std::map<std::string, std::string> facts;    // producer, hashes of models, hardware: what results from it should say
  std::vector<RecordedEpisode> episodes;
  std::map<std::string, RecordedColumn> columns;
  std::string file = {};                       // where it was read, for messages; not written

  int64_t rows() const { return episodes.empty() ? 0 : episodes.back().first + episodes.back().rows; }
  // A column by name, [rows * width] row-major; width 1 is both [rows] and [rows, 1]. DataError when it is missing, of another type or
  // of another width. Views last as long as the recording.
  std::span<const float> f32(const std::string& name, int64_t width = 1) const;
  std::span<const int64_t> i64(const std::string& name, int64_t width = 1) const;
  // DataError naming the file where the recording does not say it.
  const std::string& fact(const std::string& name) const;
};

// DataError also where the recording is of another environment than `environment`.
Recording read_recording(const std::filesystem::path& file, const std::string& environment);
// What read_recording would refuse is refused here, with nothing written; CheckpointError when the disk refuses.
void write_recording(const std::filesystem::path& file, const Recording& recording);

}  // namespace trimtab
