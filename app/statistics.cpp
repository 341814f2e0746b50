#include "app/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kTail = 0.025;                      // 95 % intervals
enum Draw : uint32_t { kEpisodes = 0, kSeeds = 1 };  // second counter word of the resampling draws

double normal_cdf(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

// Tail probability of the percentile limit for n episodes (Hesterberg's widening).
double tail_for(int64_t n) {
  const double t = student_t_quantile(1 - kTail, static_cast<double>(n - 1));
  return normal_cdf(-t * std::sqrt(static_cast<double>(n) / static_cast<double>(n - 1)));
}

// Linear interpolation between order statistics; reorders `values`.
double quantile(std::vector<double>& values, double probability) {
  const double position = probability * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<int64_t>(position);
  std::nth_element(values.begin(), below, values.end());
  if (below + 1 == values.end()) return *below;
  const double part = position - std::floor(position);
  return *below + part * (*std::min_element(below + 1, values.end()) - *below);
}

}  // namespace

int64_t Values::count_defined() const {
  int64_t count = 0;
  for (int64_t e = 0; e < columns_; ++e) {
    bool defined = false;
    for (int64_t s = 0; s < rows_; ++s) defined = defined || std::isfinite(at(s, e));
    count += defined;
  }
  return count;
}

void match(Values& a, Values& b) {
  TT_CHECK_EQ(a.columns(), b.columns());
  TT_CHECK(a.rows() == b.rows() || a.rows() == 1 || b.rows() == 1, "{} and {} rows", a.rows(), b.rows());
  const int64_t rows = std::max(a.rows(), b.rows());
  Values wide_a(rows, a.columns()), wide_b(rows, a.columns());
  for (int64_t s = 0; s < rows; ++s) {
    for (int64_t e = 0; e < a.columns(); ++e) {
      const double x = a.at(a.rows() == 1 ? 0 : s, e), y = b.at(b.rows() == 1 ? 0 : s, e);
      const bool both = std::isfinite(x) && std::isfinite(y);
      wide_a.at(s, e) = both ? x : kNaN;
      wide_b.at(s, e) = both ? y : kNaN;
    }
  }
  a = std::move(wide_a);
  b = std::move(wide_b);
}

Bootstrap::Bootstrap(const std::vector<int64_t>& episodes, int64_t num_seeds, uint64_t seed,
                     int64_t resamples)
    : num_seeds_(num_seeds), resamples_(resamples) {
  for (const int64_t count : episodes) num_episodes_ += count;
  TT_CHECK_GE(num_seeds, 1);
  episode_weight_.assign((1 + resamples) * num_episodes_, 0);
  seed_weight_.assign((1 + resamples) * num_seeds_, 0);
  std::fill_n(episode_weight_.begin(), num_episodes_, uint16_t{1});
  std::fill_n(seed_weight_.begin(), num_seeds_, uint16_t{1});
  for (int64_t b = 1; b <= resamples; ++b) {
    Draws episode_draws(seed, Stream::kBootstrap, static_cast<uint32_t>(b), kEpisodes);
    Draws seed_draws(seed, Stream::kBootstrap, static_cast<uint32_t>(b), kSeeds);
    uint16_t* weight = &episode_weight_[b * num_episodes_];
    for (const int64_t count : episodes) {
      for (int64_t i = 0; i < count; ++i) ++weight[episode_draws.below(static_cast<uint32_t>(count))];
      weight += count;
    }
    for (int64_t i = 0; i < num_seeds_; ++i)
      ++seed_weight_[b * num_seeds_ + seed_draws.below(static_cast<uint32_t>(num_seeds_))];
  }
}

std::vector<double> Bootstrap::means(const Values& values) const {
  TT_CHECK_EQ(values.columns(), num_episodes_);
  TT_CHECK(values.rows() == 1 || values.rows() == num_seeds_, "{} rows for {} seeds", values.rows(),
           num_seeds_);
  std::vector<double> out(1 + resamples_);
  for (int64_t b = 0; b <= resamples_; ++b) {
    const uint16_t* episode_weight = &episode_weight_[b * num_episodes_];
    double sum = 0, count = 0;
    for (int64_t s = 0; s < values.rows(); ++s) {
      const double row_weight = values.rows() == 1 ? 1.0 : seed_weight_[b * num_seeds_ + s];
      if (row_weight == 0) continue;
      double row_sum = 0, row_count = 0;
      for (int64_t e = 0; e < num_episodes_; ++e) {
        const double value = values.at(s, e);
        if (!std::isfinite(value)) continue;
        row_sum += episode_weight[e] * value;
        row_count += episode_weight[e];
      }
      sum += row_weight * row_sum;
      count += row_weight * row_count;
    }
    out[b] = count > 0 ? sum / count : kNaN;
  }
  return out;
}

Interval Bootstrap::interval(std::span<const double> draws, int64_t n) const {
  Interval out{.mean = draws[0], .low = kNaN, .high = kNaN, .n = n};
  if (n < 2) return out;
  std::vector<double> defined;
  for (const double draw : draws.subspan(1)) {
    if (std::isfinite(draw)) defined.push_back(draw);
  }
  if (defined.empty()) return out;
  const double tail = tail_for(n);
  out.low = quantile(defined, tail);
  out.high = quantile(defined, 1 - tail);
  return out;
}

std::vector<double> ratio(std::span<const double> a, std::span<const double> b) {
  std::vector<double> out(a.size());
  for (size_t i = 0; i < a.size(); ++i) out[i] = b[i] != 0 ? a[i] / b[i] : kNaN;
  return out;
}

std::vector<double> difference(std::span<const double> a, std::span<const double> b) {
  std::vector<double> out(a.size());
  for (size_t i = 0; i < a.size(); ++i) out[i] = a[i] - b[i];
  return out;
}

FrontierHeight frontier_height(std::span<const double> x, std::span<const double> y, double at) {
  TT_CHECK(!x.empty(), "a frontier needs a point");
  const size_t left = std::min_element(x.begin(), x.end()) - x.begin();
  const size_t right = std::max_element(x.begin(), x.end()) - x.begin();
  if (at < x[left]) return {y[left], true};
  if (at > x[right]) return {y[right], true};
  double height = at == x[left]    ? y[left]
                  : at == x[right] ? y[right]
                                   : -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i + 1 < x.size(); ++i) {
    if (at < std::min(x[i], x[i + 1]) || at > std::max(x[i], x[i + 1])) continue;
    const double part = x[i] == x[i + 1] ? 0 : (at - x[i]) / (x[i + 1] - x[i]);
    height = std::max(height, y[i] + part * (y[i + 1] - y[i]));
  }
  return {height, false};
}

double normal_quantile(double probability) {
  TT_CHECK(probability > 0 && probability < 1, "{}", probability);
  double low = -40, high = 40;  // bisection: called a few times per evaluation, so simplicity counts
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (normal_cdf(middle) < probability ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

double student_t_quantile(double probability, double degrees) {
  if (degrees <= 1) return std::tan(std::numbers::pi * (probability - 0.5));
  if (degrees <= 2) return (2 * probability - 1) / std::sqrt(2 * probability * (1 - probability));
  // Abramowitz and Stegun 26.7.5.
  const double z = normal_quantile(probability), z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z,
               z9 = z7 * z * z;
  const double v = degrees;
  return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v) +
         (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * v * v * v) +
         (79 * z9 + 776 * z7 + 1482 * z5 - 1920 * z3 - 945 * z) / (92160 * v * v * v * v);
}

}  // namespace trimtab
