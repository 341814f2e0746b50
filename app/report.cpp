// `trimtab report RUN...`: one HTML page from the runs' evaluation.json and metrics.jsonl.
#include "app/report.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "app/command.h"
#include "core/files.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

struct ReportOptions {
  std::vector<std::string> runs;
  std::string out, evaluation;
};

nlohmann::json read_evaluation(const fs::path& file) {
  const nlohmann::json document = nlohmann::json::parse(read_file(file), nullptr, false);
  for (const char* key : {"data", "policies", "paired", "metrics", "plots", "frontier", "reference"}) {
    if (!document.is_object() || !document.contains(key))
      throw DataError(
          fmt::format("{}: not an evaluation of this program ('{}' is missing); make one with trimtab eval",
                      file.string(), key));
  }
  return document;
}

int report(const ReportOptions& options) {
  if (options.runs.empty()) throw ConfigError("say which run: trimtab report RUN...");
  Report page{.title = "", .evaluation = nullptr, .runs = report_runs(options.runs)};
  for (const std::string& run : options.runs) {
    if (!fs::is_directory(run)) throw DataError(fmt::format("{}: no such run folder", run));
    const fs::path evaluation = fs::path(run) / "evaluation.json";
    if (page.evaluation.is_null() && options.evaluation.empty() && fs::exists(evaluation))
      page.evaluation = read_evaluation(evaluation);
    page.title += (page.title.empty() ? "" : ", ") + fs::path(run).lexically_normal().string();
  }
  if (!options.evaluation.empty()) page.evaluation = read_evaluation(options.evaluation);
  if (page.evaluation.is_null() && page.runs.empty())
    throw DataError(fmt::format("{}: neither metrics.jsonl nor evaluation.json; train or evaluate first",
                                options.runs[0]));
  const std::string out =
      options.out.empty() ? (fs::path(options.runs[0]) / "report.html").string() : options.out;
  write_file_atomically(out, report_html(page));
  fmt::print("Written: {}\n", out);
  return 0;
}

TT_REGISTER(Verb, report,
            {.name = "report",
             .doc = "Write a run's evaluation and learning curves as one HTML file",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<ReportOptions>();
               a.words("RUN", options->runs,
                       "run folders; the first that has an evaluation.json gives the tables");
               a.text("--evaluation", options->evaluation, "another evaluation, as eval --json wrote it");
               a.text("--out", options->out, "where to write (default: RUN/report.html of the first run)");
               return [options] { return report(*options); };
             }});

}  // namespace
}  // namespace trimtab
