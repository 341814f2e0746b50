#include "core/recording.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_shape.h"
#include "core/registry.h"
#include "core/text.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;
constexpr int64_t kVersion = 1;
constexpr size_t kDeepest = 4;                          // brackets: document, episodes, episode, labels
constexpr const char* kMetadataKey = "recording";
constexpr const char* kReservedName = "__metadata__";   // safetensors keeps it for itself

// Text of a file as it may stand in a message: short, printable ASCII.
std::string printable(const std::string& text) {
  constexpr size_t kLongest = 80;
  std::string out;
  for (const char c : text.substr(0, kLongest)) out += c < 0x20 || c >= 0x7F ? '?' : c;
  return out + (text.size() > kLongest ? "..." : "");
}

[[noreturn]] void fail(const std::string& file, const std::string& what) { throw DataError(fmt::format("{}: {}", file, what)); }
[[noreturn]] void fail_at(const std::string& file, const std::string& column, const std::string& what) {
  fail(file, fmt::format("column '{}': {}", printable(column), what));
}

// Reads the index; a place is a path of keys ("columns/accepted/low") for messages.
class Index {
 public:
  Index(const std::string& text, const std::string& file) : file_(file), document_(parse(text)) {}

  // Version and environment come first: a later version may have keys that this one does not know.
  void read(const std::string& environment, Recording& out) const {
    if (!document_.is_object() || !document_.contains("recording_version")) bad("the index", "has no 'recording_version'", "record it again");
    if (const Json& version = document_["recording_version"]; version != kVersion || !version.is_number_integer())
      bad("recording_version", fmt::format("is {}, but this version of trimtab reads {}", shown(version), kVersion),
          "record it again, or use the version that made it");
    keys(document_, "the index", {"recording_version", "environment", "facts", "columns", "episodes"});
    out.environment = text(document_["environment"], "environment");
    if (out.environment != environment)
      bad("environment", fmt::format("is '{}', but '{}' was to read it", printable(out.environment), environment),
          fmt::format("give a recording made for '{}'", environment));
    out.facts = texts(document_["facts"], "facts");
    read_columns(out);
    read_episodes(out);
  }

 private:
  [[noreturn]] void bad(const std::string& place, const std::string& what, const std::string& cure) const {
    fail(file_, fmt::format("{}: {} {}; {}", kMetadataKey, printable(place), what, cure));
  }
  [[noreturn]] void expected(const std::string& place, const char* what, const Json& found) const {
    bad(place, fmt::format("is {}, expected {}", shown(found), what), "correct it, or record it again");
  }
  static std::string shown(const Json& value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "a list";
    return printable(value.dump(-1, ' ', true));
  }

  Json parse(const std::string& text) const {
    // The parser takes a zero byte for the end of its input and would ignore what follows.
    if (text.find('\0') != std::string::npos) bad("the index", "holds a zero byte", "record it again");
    return parse_checked_json(text, kDeepest, [&](JsonFault fault, const std::string& detail) {
      if (fault == JsonFault::kTooDeep) bad("the index", fmt::format("has more than {} levels of brackets", kDeepest), "none needs that");
      if (fault == JsonFault::kKeyTwice) bad("the index", fmt::format("has the key '{}' twice in one object", printable(detail)), "remove one");
      bad("the index", "is not JSON: " + printable(detail), "record it again");
    });
  }

  void keys(const Json& value, const std::string& place, const std::vector<std::string>& known) const {
    if (!value.is_object()) expected(place, "an object", value);
    for (const auto& [key, unused] : value.items()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      const std::string near = nearest(key, known);
      bad(place, fmt::format("has the unknown key '{}'", printable(key)),
          near.empty() ? "expected " + join(known, ", ") : fmt::format("did you mean '{}'?", near));
    }
    for (const std::string& key : known)
      if (!value.contains(key)) bad(place, fmt::format("has no key '{}'", key), "add it, or record it again");
  }

  std::string text(const Json& value, const std::string& place) const {
    if (!value.is_string()) expected(place, "text", value);
    return value.get<std::string>();
  }
  std::map<std::string, std::string> texts(const Json& value, const std::string& place) const {
    if (!value.is_object()) expected(place, "an object", value);
    std::map<std::string, std::string> out;
    for (const auto& [key, entry] : value.items()) out[key] = text(entry, place + "/" + key);
    return out;
  }
  int64_t count(const Json& value, const std::string& place) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{INT64_MAX}) expected(place, "a whole number from 0", value);
    return value.get<int64_t>();
  }
  float bound(const Json& value, const std::string& place, float none) const {
    if (value.is_null()) return none;
    if (!value.is_number()) expected(place, "a number, or null for no bound", value);
    const float out = static_cast<float>(value.get<double>());
    if (!std::isfinite(out)) expected(place, "a number that 32 bits hold, or null for no bound", value);
    return out;
  }

  void read_columns(Recording& out) const {
    const Json& columns = document_["columns"];
    if (!columns.is_object()) expected("columns", "an object", columns);
    for (const auto& [name, value] : columns.items()) {
      const std::string place = "columns/" + name;
      keys(value, place, {"unit", "doc", "low", "high"});
      RecordedColumn column;
      column.unit = text(value["unit"], place + "/unit"), column.doc = text(value["doc"], place + "/doc");
      column.low = bound(value["low"], place + "/low", column.low), column.high = bound(value["high"], place + "/high", column.high);
      out.columns.emplace(name, std::move(column));
    }
  }
  void read_episodes(Recording& out) const {
    const Json& episodes = document_["episodes"];
    if (!episodes.is_array()) expected("episodes", "a list", episodes);
    for (const Json& value : episodes) {
      const std::string place = fmt::format("episodes/{}", out.episodes.size());
      keys(value, place, {"first", "rows", "labels"});
      out.episodes.push_back({.first = count(value["first"], place + "/first"),
                              .rows = count(value["rows"], place + "/rows"),
                              .labels = texts(value["labels"], place + "/labels")});
    }
  }

  const std::string& file_;
  Json document_;
};

// The first number that is not finite or not within the column's bounds.
template <class T>
void check_values(const std::string& file, const std::string& name, const RecordedColumn& column, std::span<const T> values) {
  const double low = column.low, high = column.high;
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = static_cast<double>(values[i]);
    if (x >= low && x <= high && std::isfinite(x)) continue;
    const int64_t row = static_cast<int64_t>(i) / column.width();
    const std::string place = column.width() == 1 ? "" : fmt::format(", number {}", static_cast<int64_t>(i) % column.width());
    const std::string unit = column.unit.empty() ? "" : " " + printable(column.unit);
    fail_at(file, name, fmt::format("row {}{} is {}, expected a finite number from {} to {}{}; correct the value or the column's low and high", row,
                                    place, values[i], column.low, column.high, unit));
  }
}

void check_column(const std::string& file, const std::string& name, const RecordedColumn& column, int64_t rows, const std::string& other) {
  const Tensor& values = column.values;
  if (name == kReservedName) fail_at(file, name, "safetensors keeps this name for itself; choose another");
  if (values.dtype != "F32" && values.dtype != "I64")
    fail_at(file, name, fmt::format("has dtype {}, expected F32 or I64; convert it", values.dtype));
  if (values.shape.empty() || values.shape.size() > 2 || column.width() < 1)
    fail_at(file, name, fmt::format("has shape [{}], expected [rows] or [rows, width] with a width from 1; reshape it",
                                    fmt::join(values.shape, ", ")));
  if (column.rows() != rows)
    fail_at(file, name, fmt::format("has {} rows, but column '{}' has {}; all columns must have equally many; record it again", column.rows(),
                                    printable(other), rows));
  if (!(column.low <= column.high))
    fail_at(file, name, fmt::format("low is {} and high {}, expected low <= high; correct them", column.low, column.high));
  if (values.dtype == "F32")
    check_values(file, name, column, values.as_f32());
  else
    check_values(file, name, column, values.as_i64());
}

void check_episodes(const std::string& file, const std::vector<RecordedEpisode>& episodes, int64_t rows) {
  int64_t next = 0;
  for (size_t e = 0; e < episodes.size(); ++e) {
    const RecordedEpisode& it = episodes[e];
    if (it.first != next)
      fail(file, fmt::format("episode {} begins at row {}, expected row {}, where the one before it ends; episodes must follow one another without "
                             "gap or overlap", e, it.first, next));
    if (it.rows < 1 || it.rows > rows - next)
      fail(file, fmt::format("episode {} has {} rows from row {}, expected from 1 to {}: the columns have {} rows; correct the index", e, it.rows,
                             it.first, rows - next, rows));
    next += it.rows;
  }
  if (next != rows) fail(file, fmt::format("rows from {} to {} belong to no episode; add one, or cut the columns off there", next, rows - 1));
}

// What both directions demand.
void check(const std::string& file, const Recording& recording) {
  if (recording.columns.empty() || recording.episodes.empty())
    fail(file, fmt::format("has {} columns and {} episodes, expected at least one of each; record it again", recording.columns.size(),
                           recording.episodes.size()));
  const auto& [first, column] = *recording.columns.begin();
  const int64_t rows = column.values.shape.empty() ? 0 : column.rows();
  for (const auto& [name, it] : recording.columns) check_column(file, name, it, rows, first);
  check_episodes(file, recording.episodes, rows);
}

void check_utf8(const std::string& file, const std::string& text) {
  if (!is_utf8(text)) fail(file, fmt::format("the text '{}' is not UTF-8; JSON cannot hold it", printable(text)));
}
void check_utf8(const std::string& file, const std::map<std::string, std::string>& texts) {
  for (const auto& [key, text] : texts) check_utf8(file, key), check_utf8(file, text);
}
void check_texts(const std::string& file, const Recording& recording) {
  check_utf8(file, recording.environment), check_utf8(file, recording.facts);
  for (const auto& [name, column] : recording.columns) check_utf8(file, name), check_utf8(file, column.unit), check_utf8(file, column.doc);
  for (const RecordedEpisode& episode : recording.episodes) check_utf8(file, episode.labels);
}

// JSON has no infinity: null stands for no bound.
Json bound_json(float bound) { return std::isinf(bound) ? Json() : Json(bound); }

std::string index_json(const Recording& recording) {
  Json index = {{"recording_version", kVersion}, {"environment", recording.environment}, {"facts", recording.facts}, {"columns", Json::object()},
                {"episodes", Json::array()}};
  for (const auto& [name, column] : recording.columns)
    index["columns"][name] = {{"unit", column.unit}, {"doc", column.doc}, {"low", bound_json(column.low)}, {"high", bound_json(column.high)}};
  for (const RecordedEpisode& episode : recording.episodes)
    index["episodes"].push_back({{"first", episode.first}, {"rows", episode.rows}, {"labels", episode.labels}});
  return index.dump();
}

std::string name_of(const Recording& it) { return it.file.empty() ? "recording of " + it.environment : it.file; }

const RecordedColumn& find_column(const Recording& recording, const std::string& name, const char* dtype, int64_t width) {
  const auto it = recording.columns.find(name);
  const std::string file = name_of(recording);
  if (it == recording.columns.end()) {
    std::vector<std::string> names;
    for (const auto& [known, column] : recording.columns) names.push_back(printable(known));
    fail_at(file, name, fmt::format("is missing among {}; record it again with this column", join(names, ", ")));
  }
  const RecordedColumn& column = it->second;
  if (column.values.dtype != dtype || column.width() != width)
    fail_at(file, name, fmt::format("has {} numbers of dtype {} in a row, expected {} of {}; record it again so", column.width(), column.values.dtype,
                                    width, dtype));
  return column;
}

}  // namespace

std::span<const float> Recording::f32(const std::string& name, int64_t width) const {
  return find_column(*this, name, "F32", width).values.as_f32();
}
std::span<const int64_t> Recording::i64(const std::string& name, int64_t width) const {
  return find_column(*this, name, "I64", width).values.as_i64();
}
const std::string& Recording::fact(const std::string& name) const {
  const auto it = facts.find(name);
  if (it == facts.end()) fail(name_of(*this), fmt::format("does not say its '{}'; add it to the facts", name));
  return it->second;
}

Recording read_recording(const std::filesystem::path& file, const std::string& environment) {
  TensorFile contents = read_safetensors(file);
  Recording out;
  out.file = file.string();
  for (const auto& [key, text] : contents.metadata)
    if (key != kMetadataKey)
      fail(out.file, fmt::format("has the unknown metadata '{}', expected '{}' alone; remove it", printable(key), kMetadataKey));
  if (contents.metadata.empty()) fail(out.file, fmt::format("has no metadata '{}', so it is no recording; give one", kMetadataKey));
  Index(contents.metadata.at(kMetadataKey), out.file).read(environment, out);
  for (auto& [name, tensor] : contents.tensors) {
    const auto it = out.columns.find(name);
    if (it == out.columns.end()) fail_at(out.file, name, "is not in the index; describe it there or remove it");
    it->second.values = std::move(tensor);
  }
  for (const auto& [name, column] : out.columns)
    if (!contents.tensors.contains(name)) fail_at(out.file, name, "is in the index, but there is no such tensor; record it again");
  check(out.file, out);
  return out;
}

void write_recording(const std::filesystem::path& file, const Recording& recording) {
  check(file.string(), recording);
  check_texts(file.string(), recording);
  TensorFile out;
  out.metadata[kMetadataKey] = index_json(recording);
  for (const auto& [name, column] : recording.columns) out.tensors[name] = column.values;
  write_safetensors(file, out);
}

}  // namespace trimtab
