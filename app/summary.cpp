// The figures of an evaluation; see summary.h.
#include "app/summary.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/run_folder.h"

namespace trimtab {
namespace {

using nlohmann::json;

constexpr uint64_t kBootstrapSeed = 20260101;  // fixed: the same results give the same intervals
constexpr int kQuantiles = 101;                // points of a distribution plot
constexpr size_t kSeriesPoints = 250;          // points of a time series plot

json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json interval_json(const Interval& i) {
  return {{"mean", number(i.mean)}, {"low", number(i.low)}, {"high", number(i.high)}, {"n", i.n}};
}

// One file's columns, or all of them.
struct Slice {
  std::string file;               // "" for all
  std::vector<int64_t> episodes;  // strata
  int64_t first = 0, count = 0;
};

std::vector<Slice> slices_of(const std::vector<EvaluatedData>& data, const Gathered& gathered) {
  std::vector<Slice> out;
  int64_t first = 0;
  for (size_t f = 0; f < data.size(); ++f) {
    out.push_back({data[f].file, {gathered.episodes[f]}, first, gathered.episodes[f]});
    first += gathered.episodes[f];
  }
  out.push_back({"", gathered.episodes, 0, first});
  return out;
}

Values columns(const Values& values, const Slice& slice) {
  Values out(values.rows(), slice.count);
  for (int64_t s = 0; s < values.rows(); ++s) {
    for (int64_t e = 0; e < slice.count; ++e) out.at(s, e) = values.at(s, slice.first + e);
  }
  return out;
}

// All summaries of one slice. Means of every (policy, metric) are drawn once and shared by ratios and
// frontiers.
class Summary {
 public:
  Summary(const Gathered& gathered, const Slice& slice, int64_t num_seeds)
      : gathered_(gathered),
        slice_(slice),
        bootstrap_(slice.episodes, std::max<int64_t>(1, num_seeds), kBootstrapSeed) {
    for (const GatheredPolicy& policy : gathered.policies) {
      std::vector<Values>& values = values_.emplace_back();
      std::vector<std::vector<double>>& means = means_.emplace_back();
      for (const Values& metric : policy.metrics) {
        values.push_back(columns(metric, slice));
        means.push_back(bootstrap_.means(values.back()));
      }
    }
  }

  void add_to(json& out) const {
    for (size_t p = 0; p < gathered_.policies.size(); ++p) out["policies"].push_back(policy_row(p));
    for (size_t p = 0; p < gathered_.policies.size(); ++p) {
      for (size_t q = 0; q < gathered_.policies.size(); ++q) {
        const bool against_reference = gathered_.policies[q].policy.name == gathered_.reference;
        const bool against_baseline = gathered_.policies[p].policy.kind == "learned";
        if (p == q || !(against_reference || against_baseline)) continue;
        for (size_t m = 0; m < gathered_.metrics.size(); ++m) out["paired"].push_back(paired_row(p, q, m));
      }
    }
    for (const Evaluator::Frontier& frontier : gathered_.frontiers) add_frontier(frontier, out["frontier"]);
  }

 private:
  json policy_row(size_t p) const {
    json metrics = json::object();
    for (size_t m = 0; m < gathered_.metrics.size(); ++m) {
      json cell = interval_json(bootstrap_.interval(means_[p][m], values_[p][m].count_defined()));
      cell["unit"] = gathered_.metrics[m].unit;
      metrics[gathered_.metrics[m].name] = cell;
    }
    const EvaluatedPolicy& policy = gathered_.policies[p].policy;
    return {{"name", policy.name}, {"kind", policy.kind}, {"file", slice_.file}, {"metrics", metrics}};
  }

  json paired_row(size_t p, size_t q, size_t m) const {
    Values a = values_[p][m], b = values_[q][m];
    const bool whole = a.count_defined() == slice_.count && b.count_defined() == slice_.count;
    match(a, b);
    const int64_t n = a.count_defined();
    const std::vector<double> mean_a = whole ? means_[p][m] : bootstrap_.means(a);
    const std::vector<double> mean_b = whole ? means_[q][m] : bootstrap_.means(b);
    return {{"policy", gathered_.policies[p].policy.name},
            {"against", gathered_.policies[q].policy.name},
            {"metric", gathered_.metrics[m].name},
            {"file", slice_.file},
            {"ratio", interval_json(bootstrap_.interval(ratio(mean_a, mean_b), n))},
            {"difference", interval_json(bootstrap_.interval(difference(mean_a, mean_b), n))}};
  }

  size_t metric_index(const std::string& name) const {
    for (size_t m = 0; m < gathered_.metrics.size(); ++m) {
      if (gathered_.metrics[m].name == name) return m;
    }
    TT_CHECK(false, "a frontier names the unknown metric '{}'", name);
    return 0;
  }
  size_t policy_index(const std::string& name) const {
    for (size_t p = 0; p < gathered_.policies.size(); ++p) {
      if (gathered_.policies[p].policy.name == name) return p;
    }
    TT_CHECK(false, "a frontier names the unknown policy '{}'", name);
    return 0;
  }

  void add_frontier(const Evaluator::Frontier& frontier, json& out) const {
    const size_t x = metric_index(frontier.x), y = metric_index(frontier.y);
    std::vector<size_t> points;
    for (const std::string& name : frontier.policies) points.push_back(policy_index(name));
    const size_t num_draws = means_[0][x].size();
    std::vector<double> point_x(points.size()), point_y(points.size()), relative(num_draws);
    for (size_t p = 0; p < gathered_.policies.size(); ++p) {
      const EvaluatedPolicy& policy = gathered_.policies[p].policy;
      if (std::find(frontier.policies.begin(), frontier.policies.end(), policy.name) !=
          frontier.policies.end())
        continue;
      int64_t clamped = 0;
      for (size_t b = 0; b < num_draws; ++b) {
        for (size_t i = 0; i < points.size(); ++i)
          point_x[i] = means_[points[i]][x][b], point_y[i] = means_[points[i]][y][b];
        const FrontierHeight height = frontier_height(point_x, point_y, means_[p][x][b]);
        clamped += height.clamped;
        relative[b] = height.y > 0 ? means_[p][y][b] / height.y : std::numeric_limits<double>::quiet_NaN();
      }
      out.push_back({{"policy", policy.name},
                     {"frontier", frontier.name},
                     {"file", slice_.file},
                     {"x", frontier.x},
                     {"y", frontier.y},
                     {"ratio", interval_json(bootstrap_.interval(relative, slice_.count))},
                     {"clamped", static_cast<double>(clamped) / static_cast<double>(num_draws)}});
    }
  }

  const Gathered& gathered_;
  const Slice& slice_;
  Bootstrap bootstrap_;
  std::vector<std::vector<Values>> values_;              // [policy][metric]
  std::vector<std::vector<std::vector<double>>> means_;  // [policy][metric][1 + resamples]
};

json quantiles(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  json out = json::array();
  for (int i = 0; i < kQuantiles && !samples.empty(); ++i) {
    const double position =
        static_cast<double>(i) / (kQuantiles - 1) * static_cast<double>(samples.size() - 1);
    out.push_back(samples[static_cast<size_t>(position + 0.5)]);
  }
  return out;
}

// Means over equal bins, so that a long episode stays a light plot.
json thinned(const std::vector<float>& series) {
  json values = json::array();
  const size_t bin = std::max<size_t>(1, (series.size() + kSeriesPoints - 1) / kSeriesPoints);
  for (size_t start = 0; start < series.size(); start += bin) {
    const size_t end = std::min(series.size(), start + bin);
    double sum = 0;
    for (size_t i = start; i < end; ++i) sum += series[i];
    values.push_back(number(sum / static_cast<double>(end - start)));
  }
  return {{"steps_per_point", bin}, {"values", values}};
}

json plots(const Gathered& gathered) {
  json out = {{"distributions", json::array()}, {"series", json::array()}, {"frontiers", json::array()}};
  for (const GatheredPolicy& p : gathered.policies) {
    if (!p.samples.empty())
      out["distributions"].push_back(
          {{"policy", p.policy.name}, {"kind", p.policy.kind}, {"quantiles", quantiles(p.samples)}});
    for (const auto& [name, series] : p.series) {
      json line = thinned(series);
      line["policy"] = p.policy.name;
      line["name"] = name;
      out["series"].push_back(line);
    }
  }
  for (const Evaluator::Frontier& f : gathered.frontiers)
    out["frontiers"].push_back({{"name", f.name}, {"x", f.x}, {"y", f.y}, {"policies", f.policies}});
  return out;
}

}  // namespace

json summarise(const std::string& environment, const std::vector<EvaluatedData>& data,
               const Gathered& gathered, int64_t num_seeds) {
  json out = {{"environment", environment},
              {"version", TRIMTAB_VERSION},
              {"hardware", hardware_and_version()},
              {"reference", gathered.reference},
              {"seeds", num_seeds},
              {"interval", 0.95},
              {"resamples", Bootstrap::kResamples},
              {"data", json::array()},
              {"metrics", json::array()},
              {"policies", json::array()},
              {"paired", json::array()},
              {"frontier", json::array()}};
  for (size_t f = 0; f < data.size(); ++f) {
    out["data"].push_back({{"file", data[f].file},
                           {"sha256", data[f].sha256},
                           {"split", data[f].split},
                           {"episodes", gathered.episodes[f]}});
  }
  for (const MetricInfo& metric : gathered.metrics)
    out["metrics"].push_back(
        {{"name", metric.name}, {"unit", metric.unit}, {"higher_is_better", metric.higher_is_better}});
  for (const Slice& slice : slices_of(data, gathered)) Summary(gathered, slice, num_seeds).add_to(out);
  out["plots"] = plots(gathered);
  return out;
}

}  // namespace trimtab
