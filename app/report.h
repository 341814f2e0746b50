// The report of an evaluation and its runs: one HTML file with inline SVG, no script, that opens offline.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace trimtab {

// One run's learning curve: what metrics.jsonl holds.
struct ReportRun {
  std::string name;
  std::string config;                   // config.yaml as it stands; may be empty
  std::vector<nlohmann::json> metrics;  // lines in order
  std::vector<nlohmann::json> samples = {};  // of a language model: lines of samples.jsonl
};
struct Report {
  std::string title;
  nlohmann::json evaluation;  // evaluation.h; null when there is none
  std::vector<ReportRun> runs;
};

std::string report_html(const Report& report);

// Reads those of `names` that are run folders; others are left out.
std::vector<ReportRun> report_runs(const std::vector<std::string>& names);

}  // namespace trimtab
