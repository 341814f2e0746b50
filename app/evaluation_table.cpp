// The console form of an evaluation: one table per file and one over all, the first metrics with their
// intervals.
#include <algorithm>
#include <cmath>

#include "app/evaluation.h"

namespace trimtab {
namespace {

using nlohmann::json;

constexpr size_t kColumns = 5;  // metrics shown; the JSON and the report have all of them

std::string figure(const json& value) {
  if (!value.is_number()) return "-";
  const double x = value.get<double>(), size = std::abs(x);
  return fmt::format("{:.{}f}", x, size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.01 || x == 0 ? 3 : 5);
}

std::string cell(const json& interval) {
  if (interval["low"].is_null()) return figure(interval["mean"]);
  return fmt::format("{} [{}, {}]", figure(interval["mean"]), figure(interval["low"]),
                     figure(interval["high"]));
}

// Columns as wide as their widest cell; the first is flush left, the others flush right.
std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width;
  for (const auto& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (size_t i = 0; i < row.size(); ++i)
      line += i < 2 ? fmt::format("{:<{}}  ", row[i], width[i]) : fmt::format("{:>{}}  ", row[i], width[i]);
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string ratio_cell(const json& evaluation, const std::string& policy, const std::string& file,
                       const std::string& metric) {
  for (const json& row : evaluation["paired"]) {
    if (row["policy"] == policy && row["file"] == file && row["metric"] == metric &&
        row["against"] == evaluation["reference"])
      return cell(row["ratio"]);
  }
  return "";
}

std::string table_of(const json& evaluation, const std::string& file) {
  const json& metrics = evaluation["metrics"];
  const size_t shown = std::min(kColumns, metrics.size());
  std::vector<std::string> head = {"policy", "kind"};
  for (size_t m = 0; m < shown; ++m) head.push_back(metrics[m]["name"]);
  head.push_back(fmt::format("{} / {}", metrics[0]["name"].get<std::string>(),
                             evaluation["reference"].get<std::string>()));
  std::vector<std::vector<std::string>> rows = {head};
  for (const json& policy : evaluation["policies"]) {
    if (policy["file"] != file) continue;
    std::vector<std::string> row = {policy["name"], policy["kind"]};
    for (size_t m = 0; m < shown; ++m)
      row.push_back(cell(policy["metrics"][metrics[m]["name"].get<std::string>()]));
    row.push_back(ratio_cell(evaluation, policy["name"], file, metrics[0]["name"]));
    rows.push_back(row);
  }
  return aligned(rows);
}

}  // namespace

std::string evaluation_table(const json& evaluation) {
  std::string out;
  const std::string unit = evaluation.value("episode", "episode");
  int64_t total = 0;
  for (const json& data : evaluation["data"]) {
    const int64_t episodes = data["episodes"];
    total += episodes;
    out += fmt::format("\n{} ({}, n = {} independent {}s)\n{}", data["file"].get<std::string>(),
                       data["split"].get<std::string>(), episodes, unit, table_of(evaluation, data["file"]));
  }
  if (evaluation["data"].size() > 1)
    out += fmt::format("\nall files (n = {} independent {}s)\n{}", total, unit, table_of(evaluation, ""));
  const int64_t seeds = evaluation["seeds"];
  out += fmt::format(
      "\nMean [95 % interval] by bootstrap over independent {}s{}; ratios are paired on matched {}.\n", unit,
      seeds > 1    ? fmt::format(" crossed with {} training seeds", seeds)
      : seeds == 1 ? ", one training seed (its spread is not in the intervals)"
                   : "",
      unit == "episode" ? "worlds" : unit + "s");
  return out;
}

}  // namespace trimtab
