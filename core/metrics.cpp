// Metrics: metrics.jsonl and the TensorBoard file made from it.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/append_file.h"
#include "core/disk.h"
#include "core/error.h"
#include "core/files.h"
#include "core/run_folder.h"
#include "core/tensorboard.h"
#include "core/text.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using Line = nlohmann::ordered_json;

double unix_time_s() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(std::chrono::duration_cast<std::chrono::milliseconds>(since).count()) * 1e-3;
}

// The lines of a metrics file up to `last_step`. A killed run can leave half a line at the end; it is
// dropped. A run that begins anew logs its start (step 0) again, so nothing is kept of one that never saved.
std::vector<Line> kept_lines(const fs::path& file, int64_t last_step) {
  std::vector<Line> kept;
  if (last_step == 0) return kept;
  for (const std::string& text : split(read_file(file), '\n')) {
    Line line = Line::parse(text, nullptr, /*allow_exceptions=*/false);
    const bool whole = line.is_object() && line.contains("step") && line["step"].is_number_integer() &&
                       line.contains("time") && line["time"].is_number();
    if (whole && line["step"].get<int64_t>() <= last_step) kept.push_back(std::move(line));
  }
  return kept;
}

std::string record_of(const Line& line) {
  std::vector<std::pair<std::string, double>> values;
  for (const auto& [name, value] : line.items()) {
    if (name == "step" || name == "time" || name == "every") continue;
    values.emplace_back(name,
                        value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN());
  }
  return tensorboard_record(line["time"].get<double>(), line["step"].get<int64_t>(), values);
}

// Event files of this run before it was resumed: what they hold is written anew from metrics.jsonl.
void remove_event_files(const fs::path& folder) {
  std::vector<fs::path> old;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("events.out.tfevents.") && name.ends_with(".trimtab")) old.push_back(entry.path());
  }
  for (const fs::path& path : old) disk::must(disk::remove_tree(path), path);
}

std::string event_file_name() {
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  return fmt::format("events.out.tfevents.{}.{}.trimtab", static_cast<int64_t>(unix_time_s()), host);
}

}  // namespace

class Metrics::Impl {
 public:
  Impl(fs::path folder, int64_t resume_step, int64_t most_lines) : folder_(std::move(folder)), most_(most_lines) {
    write(fs::exists(file()) ? kept_lines(file(), resume_step) : std::vector<Line>());
  }

  // `record`: of the numbers themselves, which a line tells less of (infinities are null).
  void log(Line line, const std::string& record) {
    if (is_plain(line) && !is_due(line)) return;
    if (is_plain(line) && every_ > 0) line["every"] = every_;
    lines_->append(line.dump() + "\n");
    events_->append(record);
    count(line);
    if (plain_ > most_) thin();
  }
  void flush() {
    lines_->flush();
    events_->flush();
  }

 private:
  fs::path file() const { return folder_ / "metrics.jsonl"; }

  // Without an evaluation: may be left out.
  static bool is_plain(const Line& line) {
    for (const auto& [name, value] : line.items())
      if (name.starts_with("eval/")) return false;
    return true;
  }
  // The first one of its `every_` steps, counted from step 0.
  bool is_due(const Line& line) const { return plain_ == 0 || every_ == 0 || line["step"].get<int64_t>() / every_ != last_ / every_; }
  void count(const Line& line) {
    if (!is_plain(line)) return;
    ++plain_, last_ = line["step"].get<int64_t>(), every_ = line.value("every", int64_t{0});
  }

  // Both files anew, of these lines.
  void write(const std::vector<Line>& kept) {
    std::string text, records = tensorboard_header(unix_time_s());
    plain_ = last_ = every_ = 0;
    for (const Line& line : kept) text += line.dump() + "\n", records += record_of(line), count(line);
    lines_.reset(), events_.reset();
    write_file_atomically(file(), text);
    remove_event_files(folder_);
    lines_ = std::make_unique<AppendFile>(file()), events_ = std::make_unique<AppendFile>(folder_ / event_file_name());
    events_->append(records);
  }

  // Steps between lines double until half of the lines are left. Which ones are then depends on their steps alone: a resumed run, whose file
  // may have been thinned behind its checkpoint, goes on as if nothing had happened.
  void thin() {
    std::vector<Line> lines = kept_lines(file(), std::numeric_limits<int64_t>::max());
    while (plain_ > most_ / 2) {
      every_ = std::max<int64_t>(1, 2 * every_);
      plain_ = 0;
      std::erase_if(lines, [&](Line& line) {
        if (!is_plain(line)) return false;
        if (!is_due(line)) return true;
        line["every"] = every_, ++plain_, last_ = line["step"].get<int64_t>();
        return false;
      });
    }
    write(lines);
  }

  fs::path folder_;
  int64_t most_, plain_ = 0, last_ = 0, every_ = 0;   // plain lines, the last one's step, steps between two at least
  std::unique_ptr<AppendFile> lines_, events_;
};

Metrics::Metrics(const fs::path& run_folder, int64_t resume_step, int64_t most_lines) : impl_(new Impl(run_folder, resume_step, most_lines)) {}

Metrics::~Metrics() = default;

void Metrics::log(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  Line line = {{"step", step}, {"time", unix_time_s()}};
  for (const auto& [name, value] : values) {
    TT_CHECK(!line.contains(name), "metric '{}' is logged twice in one line", name);
    line[name] = std::isfinite(value) ? Line(value) : Line(nullptr);
  }
  const std::string record = tensorboard_record(line["time"].get<double>(), step, values);
  impl_->log(std::move(line), record);
}

void Metrics::flush() { impl_->flush(); }

}  // namespace trimtab
