#include "app/report_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "app/plot.h"

namespace trimtab {
namespace {

using nlohmann::json;

constexpr int kNumColours = 7;
constexpr size_t kMostLearningPlots = 8;
constexpr double kNearReference =
    0.6;  // a trade-off plot starts at this part of the reference's x, where the contest is

double value_of(const json& v) {
  return v.is_number() ? v.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::vector<double> values_of(const json& list) {
  std::vector<double> out;
  for (const json& v : list) out.push_back(value_of(v));
  return out;
}

const json* policy_row(const json& evaluation, const std::string& policy, const std::string& file) {
  for (const json& row : evaluation["policies"]) {
    if (row["name"] == policy && row["file"] == file) return &row;
  }
  return nullptr;
}

// One colour per learned policy and per frontier in the whole report; the reference and other baselines are
// neutral.
std::map<std::string, int> colours_of(const json& evaluation) {
  std::map<std::string, int> out;
  int next = 1;
  for (const json& row : evaluation["policies"]) {
    if (row["kind"] == "learned" && !out.contains(row["name"]))
      out[row["name"]] = std::min(next++, kNumColours);
  }
  for (const json& frontier : evaluation["plots"]["frontiers"]) {
    const int colour = std::min(next++, kNumColours);
    out["frontier " + frontier["name"].get<std::string>()] = colour;
  }
  return out;
}

int colour_or_neutral(const std::map<std::string, int>& colours, const std::string& name) {
  const auto it = colours.find(name);
  return it == colours.end() ? 0 : it->second;
}

// The point of a frontier whose x is nearest to the last learned policy's (or the reference's): its honest
// rival.
std::string rival_on(const json& evaluation, const json& frontier) {
  const std::string reference = evaluation["reference"];
  const json* subject = policy_row(evaluation, reference, "");
  for (const json& row : evaluation["policies"]) {
    if (row["kind"] == "learned" && row["file"] == "" &&
        (subject == nullptr || row["name"] == "joint" || (*subject)["kind"] != "learned"))
      subject = &row;
  }
  if (subject == nullptr) return "";
  const std::string x = frontier["x"];
  std::string best;
  double distance = std::numeric_limits<double>::infinity();
  for (const json& name : frontier["policies"]) {
    const json* row = policy_row(evaluation, name, "");
    if (row == nullptr) continue;
    const double d =
        std::abs(value_of((*row)["metrics"][x]["mean"]) - value_of((*subject)["metrics"][x]["mean"]));
    if (d < distance) distance = d, best = name;
  }
  return best;
}

std::string unit_of(const json& evaluation, const std::string& metric) {
  for (const json& m : evaluation["metrics"]) {
    if (m["name"] == metric && m["unit"] != "")
      return fmt::format("{} ({})", metric, m["unit"].get<std::string>());
  }
  return metric;
}

Curve point_curve(const json& row, const std::string& x, const std::string& y) {
  Curve curve;
  const json &mx = row["metrics"][x], &my = row["metrics"][y];
  curve.label = row["name"];
  curve.x = {value_of(mx["mean"])};
  curve.y = {value_of(my["mean"])};
  curve.x_low = {value_of(mx["low"])};
  curve.x_high = {value_of(mx["high"])};
  curve.y_low = {value_of(my["low"])};
  curve.y_high = {value_of(my["high"])};
  curve.mark = Mark::kPoint;
  return curve;
}

Curve frontier_curve(const json& evaluation, const json& frontier, const std::string& file, int colour,
                     double x_start) {
  Curve curve;
  curve.label = frontier["name"];
  curve.colour = colour;
  curve.mark = Mark::kLineWithPoints;
  for (const json& name : frontier["policies"]) {
    const json* row = policy_row(evaluation, name, file);
    if (row == nullptr) continue;
    const double x = value_of((*row)["metrics"][frontier["x"].get<std::string>()]["mean"]);
    if (x < x_start) continue;
    curve.x.push_back(x);
    curve.y.push_back(value_of((*row)["metrics"][frontier["y"].get<std::string>()]["mean"]));
    curve.names.push_back(name);
  }
  return curve;
}

std::string frontier_figure(const json& evaluation, const std::string& file, const std::string& title) {
  const json& frontiers = evaluation["plots"]["frontiers"];
  const std::map<std::string, int> colours = colours_of(evaluation);
  const std::string x = frontiers[0]["x"], y = frontiers[0]["y"];
  const json* reference = policy_row(evaluation, evaluation["reference"], file);
  const double x_start =
      reference == nullptr ? -INFINITY : kNearReference * value_of((*reference)["metrics"][x]["mean"]);
  Plot plot{.title = title,
            .note = fmt::format("Up and to the right is better. Bars: 95 % intervals. Grey: other baselines. "
                                "Policies below {} {:.2f} are left out.",
                                x, x_start),
            .x_label = unit_of(evaluation, x),
            .y_label = unit_of(evaluation, y),
            .curves = {}};
  std::set<std::string> on_frontier;
  for (const json& frontier : frontiers) {
    if (frontier["x"] != x || frontier["y"] != y) continue;
    plot.curves.push_back(frontier_curve(
        evaluation, frontier, file,
        colour_or_neutral(colours, "frontier " + frontier["name"].get<std::string>()), x_start));
    for (const json& name : frontier["policies"]) on_frontier.insert(name);
  }
  for (const json& row : evaluation["policies"]) {
    const std::string name = row["name"];
    if (row["file"] != file || on_frontier.contains(name)) continue;
    Curve curve = point_curve(row, x, y);
    if (curve.x[0] < x_start) continue;
    curve.colour = colour_or_neutral(colours, name);
    curve.in_legend = curve.colour != 0 || name == evaluation["reference"];
    if (curve.colour == 0)
      curve.x_low.clear(), curve.y_low.clear(), curve.x_high.clear(), curve.y_high.clear();
    plot.curves.push_back(curve);
  }
  return plot_figure(plot);
}

// How much a metric says about learning: lower comes first, negative is left out.
int rank_of(const std::string& key) {
  for (const char* part : {"step", "seconds", "time", "length", "phase", "minibatches"}) {
    if (key.find(part) != std::string::npos) return -1;
  }
  const std::vector<std::string> order = {"validation", "eval",    "score", "return",    "throughput", "jain",
                                          "reward",     "entropy", "kl",    "explained", "loss"};
  for (size_t i = 0; i < order.size(); ++i) {
    if (key.find(order[i]) != std::string::npos) return static_cast<int>(i);
  }
  return static_cast<int>(order.size());
}

}  // namespace

std::string distribution_figures(const json& evaluation) {
  std::map<std::string, int> colours = colours_of(evaluation);
  std::set<std::string> wanted = {evaluation["reference"].get<std::string>()};
  for (const json& frontier : evaluation["plots"]["frontiers"]) {
    const std::string rival = rival_on(evaluation, frontier);
    wanted.insert(rival);
    colours.emplace(rival, colours["frontier " + frontier["name"].get<std::string>()]);
  }
  colours[evaluation["reference"]] = 0;
  Plot plot{.title = "Distribution of the samples over users and episodes",
            .note = "The curve of a better policy lies further right.",
            .x_label = "per-user throughput (Mbit/s)",
            .y_label = "share of users at or below",
            .curves = {},
            .y_from_zero = true};
  for (const json& d : evaluation["plots"]["distributions"]) {
    const std::string name = d["policy"];
    if (d["kind"] != "learned" && !wanted.contains(name)) continue;
    Curve curve;
    curve.label = name;
    curve.x = values_of(d["quantiles"]);
    for (size_t i = 0; i < curve.x.size(); ++i)
      curve.y.push_back(static_cast<double>(i) / static_cast<double>(curve.x.size() - 1));
    curve.colour = colour_or_neutral(colours, name);
    curve.dashed = d["kind"] != "learned";
    plot.curves.push_back(curve);
  }
  return plot_figure(plot);
}

std::string frontier_figures(const json& evaluation) {
  if (evaluation["plots"]["frontiers"].empty()) return "";
  std::string out = frontier_figure(evaluation, "", "Trade-off between throughput and fairness");
  if (evaluation["data"].size() < 2) return out;
  for (const json& data : evaluation["data"]) {
    const std::string file = data["file"];
    out += frontier_figure(evaluation, file, "Trade-off on " + file);
  }
  return out;
}

std::string series_figures(const json& evaluation) {
  std::map<std::string, Plot> plots;
  const std::map<std::string, int> colours = colours_of(evaluation);
  for (const json& line : evaluation["plots"]["series"]) {
    const std::string name = line["name"], policy = line["policy"];
    Plot& plot = plots[name];
    plot.title = "First episode: " + name;
    plot.x_label = "step";
    plot.y_label = name;
    Curve curve;
    curve.label = policy;
    curve.y = values_of(line["values"]);
    for (size_t i = 0; i < curve.y.size(); ++i)
      curve.x.push_back((static_cast<double>(i) + 0.5) * line["steps_per_point"].get<double>());
    curve.colour = colour_or_neutral(colours, policy);
    plot.curves.push_back(curve);
  }
  std::string out;
  for (const auto& [name, plot] : plots) out += plot_figure(plot);
  return out;
}

std::string learning_figures(const std::vector<ReportRun>& runs) {
  std::vector<std::string> keys;
  for (const ReportRun& run : runs) {
    for (const json& line : run.metrics) {
      for (const auto& [key, value] : line.items()) {
        if (value.is_number() && rank_of(key) >= 0 && std::find(keys.begin(), keys.end(), key) == keys.end())
          keys.push_back(key);
      }
    }
  }
  std::stable_sort(keys.begin(), keys.end(),
                   [](const auto& a, const auto& b) { return rank_of(a) < rank_of(b); });
  std::string out;
  size_t drawn = 0;
  for (const std::string& key : keys) {
    Plot plot{.title = key, .note = "", .x_label = "environment steps", .y_label = key, .curves = {}};
    for (size_t r = 0; r < runs.size(); ++r) {
      Curve curve;
      curve.label = runs[r].name;
      curve.colour = 1 + static_cast<int>(r) % kNumColours;
      curve.in_legend = runs.size() > 1;
      for (const json& line : runs[r].metrics) {
        if (!line.contains(key)) continue;
        curve.x.push_back(value_of(line["step"]));
        curve.y.push_back(value_of(line[key]));
      }
      if (curve.x.size() < 2) continue;
      plot.curves.push_back(curve);
    }
    const std::string figure = plot_figure(plot);
    out += figure;
    drawn += !figure.empty();
    if (drawn == kMostLearningPlots) break;
  }
  return out;
}

}  // namespace trimtab
