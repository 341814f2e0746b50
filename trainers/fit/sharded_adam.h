// Adam whose moments are spread over the ranks (ZeRO-1, Rajbhandari et al., arXiv 1910.02054): each rank keeps those of its piece of the
// parameters, steps that piece alone, and gives it to the others. Twice the parameters' bytes less memory on every rank but its
// share, and no more traffic than a sum over ranks has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/ranks.h"
#include "trainers/fit/adam.h"

namespace trimtab {

class ShardedAdam {
 public:
  // `size` parameters in all; `ranks` outlives it.
  ShardedAdam(int64_t size, const AdamOptions& options, Ranks& ranks);
  // Of a gradient whose own piece is the sum over ranks (Ranks::sum_scatter): the sum of squares of the whole, the same on every rank. On
  // two, four, ... ranks it is that of one, to the bit. What else is to be added up goes along in `more`.
  double squares(std::span<const float> gradient, std::span<double> more = {});
  // One step (adam.h) of the own piece; then every rank has all parameters.
  void step(std::span<float> parameters, std::span<const float> gradient, double scale, double lr);
  int64_t steps() const { return adam_.steps(); }
  void set_options(const AdamOptions& options) { adam_.set_options(options); }

  struct Moments {
    std::vector<float> first, second;   // of all parameters
  };
  Moments moments();                    // every rank calls it, and gets all
  void restore(std::span<const float> first, std::span<const float> second, int64_t steps);   // of all parameters

 private:
  Ranks& ranks_;
  int64_t size_;
  Adam adam_;
  std::vector<double> sums_;   // of squares(), kept between calls
};

// Sum of squares in double, by blocks of kRankBlock that are added in halves; not finite where a number is not.
double tree_squares(std::span<const float> values);

}  // namespace trimtab
