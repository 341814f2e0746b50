// The part of a report that runs of language models have: their curves, accuracy over length, and replies to read.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "app/plot.h"
#include "app/report_plots.h"

namespace trimtab {
namespace {

using nlohmann::json;

constexpr int kNumColours = 7;
constexpr size_t kMostSamples = 12;   // of one run, spread over its updates

struct Series {
  std::string key, label;
};
struct Figure {
  std::string title, note, y_label;
  std::vector<Series> series;
};

const std::vector<Figure> kFigures = {
    {"Accuracy on validation problems", "Solved replies; greedy: the likeliest reply.", "share solved", {{"eval/accuracy", "sampled"}, {"eval/greedy_accuracy", "greedy"}}},
    {"Reply length", "", "tokens", {{"eval/tokens", "validation, sampled"}, {"eval/greedy_tokens", "validation, greedy"}, {"train/response_tokens", "training"}}},
    {"Reward in training", "", "mean per reply", {{"train/reward", "reward"}, {"train/solved", "share solved"}}},
    {"Loss", "", "loss", {{"train/loss", "loss"}}},
    {"Entropy", "", "nats per token", {{"train/entropy", "entropy"}}},
    {"Clipped tokens", "Share of tokens whose ratio the clip holds.", "share", {{"train/clipped_low", "low"}, {"train/clipped_high", "high"}, {"train/clipped_dual", "dual"}}},
    {"Mismatch of sampler and trainer", "Difference of their log-probabilities of a token.", "nats", {{"train/mismatch", "mean"}, {"train/mismatch_max", "largest"}}},
    {"Replies cut off", "", "share", {{"train/truncated", "training"}, {"eval/truncated", "validation"}}},
};

double value_of(const json& v) { return v.is_number() ? v.get<double>() : std::numeric_limits<double>::quiet_NaN(); }

// Where both are known, in order.
Curve curve_of(const ReportRun& run, const std::string& x, const std::string& y) {
  Curve out;
  for (const json& line : run.metrics) {
    if (!line.contains(x) || !line.contains(y)) continue;
    out.x.push_back(value_of(line[x]));
    out.y.push_back(value_of(line[y]));
    out.names.push_back("update " + line["step"].dump());
  }
  return out;
}

// One run: a colour per series. Several: a colour per run, and what is not the first series dashed.
void style(Curve& curve, const std::vector<ReportRun>& runs, size_t run, size_t series, const std::string& label) {
  const bool several = runs.size() > 1;
  curve.label = several ? (label.empty() ? runs[run].name : runs[run].name + ", " + label) : label;
  curve.colour = 1 + static_cast<int>(several ? run : series) % kNumColours;
  curve.dashed = several && series > 0;
  curve.in_legend = !curve.label.empty();
}

std::string figure_of(const Figure& figure, const std::vector<ReportRun>& runs) {
  Plot plot{.title = figure.title, .note = figure.note, .x_label = "updates", .y_label = figure.y_label, .curves = {}};
  for (size_t r = 0; r < runs.size(); ++r) {
    for (size_t s = 0; s < figure.series.size(); ++s) {
      Curve curve = curve_of(runs[r], "step", figure.series[s].key);
      if (curve.x.empty()) continue;
      curve.names.clear();
      if (curve.x.size() < 3) curve.mark = Mark::kLineWithPoints;
      style(curve, runs, r, s, figure.series.size() > 1 ? figure.series[s].label : "");
      plot.curves.push_back(curve);
    }
  }
  return plot_figure(plot);
}

// Every evaluation of a run as a point, joined in the order of training.
std::string accuracy_over_length(const std::vector<ReportRun>& runs) {
  Plot plot{.title = "Accuracy over length",
            .note = "A point per evaluation, joined in the order of training. Up and to the left is better.",
            .x_label = "tokens of a reply",
            .y_label = "share solved",
            .curves = {}};
  for (size_t r = 0; r < runs.size(); ++r) {
    Curve curve = curve_of(runs[r], "eval/tokens", "eval/accuracy");
    if (curve.x.empty()) continue;
    curve.mark = Mark::kLineWithPoints;
    style(curve, runs, r, 0, "");
    plot.curves.push_back(curve);
  }
  return plot_figure(plot);
}

std::string sample_row(const json& sample) {
  const json prompt = sample.value("prompt", json("")), reply = sample["reply"];
  const double reward = value_of(sample.value("reward", json()));
  return fmt::format("<tr><th scope='row'>{}</th><td class='reply'>{}</td><td class='reply'>{}</td><td>{}</td></tr>\n", sample.value("update", json(0)).dump(),
                     html_escaped(prompt.is_string() ? prompt.get<std::string>() : prompt.dump()), html_escaped(reply.is_string() ? reply.get<std::string>() : reply.dump()),
                     fmt::format("{:.3g}", reward));
}

// The first and the last sample and some in between.
std::vector<const json*> chosen(const std::vector<json>& samples) {
  std::vector<const json*> out;
  const size_t n = std::min(samples.size(), kMostSamples);
  for (size_t i = 0; i < n; ++i) out.push_back(&samples[n == 1 ? 0 : i * (samples.size() - 1) / (n - 1)]);
  return out;
}

}  // namespace

bool is_language(const ReportRun& run) {
  return !run.samples.empty() || std::any_of(run.metrics.begin(), run.metrics.end(), [](const json& line) {
    return line.contains("eval/accuracy") || line.contains("train/response_tokens") || line.contains("train/tokens");
  });
}

std::string language_figures(const std::vector<ReportRun>& runs) {
  std::string out = figure_of(kFigures[0], runs) + accuracy_over_length(runs);
  for (size_t i = 1; i < kFigures.size(); ++i) out += figure_of(kFigures[i], runs);
  return out;
}

std::string sample_sections(const std::vector<ReportRun>& runs) {
  std::string out;
  for (const ReportRun& run : runs) {
    if (run.samples.empty()) continue;
    std::string body;
    for (const json* sample : chosen(run.samples)) body += sample_row(*sample);
    out += fmt::format("<h2>Replies of {}</h2><p>From training, {} of {}.</p><div class='scroll'><table><thead><tr><th scope='col'>update</th><th scope='col'>prompt</th>"
                       "<th scope='col' class='reply'>reply</th><th scope='col'>reward</th></tr></thead><tbody>{}</tbody></table></div>",
                       html_escaped(run.name), std::min(run.samples.size(), kMostSamples), run.samples.size(), body);
  }
  return out;
}

}  // namespace trimtab
