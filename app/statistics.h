// Statistics of an evaluation: means over independent episodes (drops) and training seeds with 95 %
// intervals.
//
// Bootstrap (Efron 1979) with drops resampled within each trace file and, independently, training seeds
// resampled as a whole ("crossed": Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007).
// Every quantity is recomputed in the same resamples, so ratios and differences of two policies are paired on
// the worlds they shared. Percentile limits are widened for few drops as in Hesterberg, "What Teachers Should
// Know about the Bootstrap", 2015, section 5.2: the level is the normal one that gives sqrt(n / (n-1))
// t_{0.975, n-1}. What is undefined in an episode is NaN and leaves the mean.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trimtab {

struct Interval {
  double mean = 0, low = 0, high = 0;  // low and high are NaN for fewer than two episodes
  int64_t n = 0;                       // independent episodes
};

// Values of one policy and one metric: row s is a training seed (one row where no training is involved),
// column e an episode; files one after the other.
class Values {
 public:
  Values() = default;
  Values(int64_t rows, int64_t columns) : rows_(rows), columns_(columns), data_(rows * columns) {}
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  double& at(int64_t row, int64_t column) { return data_[row * columns_ + column]; }
  double at(int64_t row, int64_t column) const { return data_[row * columns_ + column]; }
  int64_t count_defined() const;  // columns with a finite value in some row

 private:
  int64_t rows_ = 0, columns_ = 0;
  std::vector<double> data_;  // [rows, columns]
};

// Makes two policies' values comparable: one row is repeated for every seed, and what either lacks both lack.
void match(Values& a, Values& b);

class Bootstrap {
 public:
  static constexpr int64_t kResamples = 10000;
  // `episodes`: how many in each file. `num_seeds`: rows of learned policies (at least 1).
  Bootstrap(const std::vector<int64_t>& episodes, int64_t num_seeds, uint64_t seed,
            int64_t resamples = kResamples);

  // The mean of the sample itself (first) and of every resample.
  std::vector<double> means(const Values& values) const;
  // `draws` as means() gives them, or any function of several such applied element by element.
  Interval interval(std::span<const double> draws, int64_t n) const;

 private:
  int64_t num_episodes_ = 0, num_seeds_ = 0, resamples_ = 0;
  std::vector<uint16_t> episode_weight_, seed_weight_;  // [1 + resamples, episodes], [1 + resamples, seeds]
};

std::vector<double> ratio(std::span<const double> a, std::span<const double> b);
std::vector<double> difference(std::span<const double> a, std::span<const double> b);

// Height of a frontier at x. The frontier is the polyline through (x[i], y[i]) in the order given; where
// several segments lie over x the highest counts (the best rival). Left or right of all points the end
// point's height is taken: `clamped`.
struct FrontierHeight {
  double y = 0;
  bool clamped = false;
};
FrontierHeight frontier_height(std::span<const double> x, std::span<const double> y, double at);

double normal_quantile(double probability);  // inverse of the standard normal distribution function
double student_t_quantile(double probability,
                          double degrees);  // integer degrees; exact for 1 and 2, within 1 % above

}  // namespace trimtab
