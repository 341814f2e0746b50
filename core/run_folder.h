// A run's folder (DESIGN: config.yaml, provenance.json, metrics.jsonl, events.*, checkpoints/,
// evaluation.json, report.html).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace trimtab {

struct RunFolder {
  std::filesystem::path path;
  bool resumed = false;  // an unfinished run of the same resolved config was found and is being continued
  // One process at a time trains into a folder: a lock of the kernel on its file `.lock`, held while a copy of this lives and let go
  // at the process's death, however it dies. Null where the file system has no locks.
  std::shared_ptr<const void> lock = nullptr;

  // Opens a run: the newest unfinished run under `out` with the same name and resolved config is resumed
  // (unless `fresh`); otherwise `out/NAME-YYYYMMDD-HHMMSS` is made with config.yaml and provenance.json.
  // `exact` uses `out` itself as the folder; a run there that cannot be resumed is moved aside to
  // `out-YYYYMMDD-HHMMSS`, and standard error says so. ConfigError when the name is no folder name, the
  // folder cannot be made, or an exact folder holds something else; RunError when another process trains into it.
  static RunFolder open(const std::filesystem::path& out, const std::string& name,
                        const std::string& resolved_config, const nlohmann::json& provenance, bool fresh,
                        bool exact);
  // Appends {"time" (UTC), "step", and `facts`} to the list `resumes` of provenance.json, for a run that goes
  // on from `step`: another version or another machine may finish what one began. DataError when the file
  // cannot be read.
  void record_resume(int64_t step, const nlohmann::json& facts) const;
  void mark_finished() const;  // an empty file `finished`
  bool finished() const;
};

// {"version", "git_commit", "compiler", "cpu", "cores", "memory_gib", "host_os"}; "git_commit" only where it
// can be read.
nlohmann::json hardware_and_version();

// metrics.jsonl (one object per line, the source of truth) and a TensorBoard event file of the same numbers.
// Opening drops the lines after `resume_step` and writes the event file anew from what is left, so that a
// metric never appears twice. A number that is not finite is null in metrics.jsonl. RunError when the disk is
// full.
//
// Both files stay bounded: with more than `most_lines` lines without an evaluation ("eval/...") half of those are
// dropped, evenly over the steps, and from then on lines come as sparsely; "every" in a line says how many steps apart. A run that is
// stopped and resumed ends with the lines of one that was not.
constexpr int64_t kMostMetricLines = 50'000;
class Metrics {
 public:
  Metrics(const std::filesystem::path& run_folder, int64_t resume_step, int64_t most_lines = kMostMetricLines);
  ~Metrics();
  void log(int64_t step,
           const std::vector<std::pair<std::string, double>>& values);  // any name but "step", "time" and "every"
  void flush();                                                         // to the disk itself
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A progress bar on a terminal (rate, remaining time, a short status); plain lines every ten seconds
// otherwise. Both go to standard error. A resumed run's first update says where it starts; its rate counts
// from there. `total` 0: unknown.
class Progress {
 public:
  Progress(std::string label, int64_t total, std::string unit);
  ~Progress();
  void update(int64_t done, const std::string& status = "");

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Ctrl-C, SIGTERM or SIGUSR1: the first sets a flag that long loops poll, the second ends the process with exit code
// 130.
void install_interrupt_handler();
bool interrupted();

}  // namespace trimtab
