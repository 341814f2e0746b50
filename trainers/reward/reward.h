// Seam 2, reward: the named terms an environment returns, weighted and scaled into the number that is
// maximised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"

namespace trimtab {

struct RewardOptions {
  std::vector<double> weights;  // one per reward term of the environment; empty: all 1
  double scale = 1;
  void describe(Fields& f) {
    f.numbers("weights", weights,
              {.doc = "one weight per reward term of the environment, in its order; empty: all 1"});
    f.number("scale", scale,
             {.low = 0, .doc = "the weighted sum is multiplied by this before anything learns from it"});
  }
  bool is_plain() const { return weights.empty() && scale == 1; }
};

// reward [rows] from terms [rows, num_terms].
template <class T>
void shape_reward(const RewardOptions& options, int64_t rows, int64_t num_terms, const T* terms, T* reward) {
  for (int64_t i = 0; i < rows; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < num_terms; ++k) {
      sum += (options.weights.empty() ? 1.0 : options.weights[k]) * terms[i * num_terms + k];
    }
    reward[i] = static_cast<T>(options.scale * sum);
  }
}

}  // namespace trimtab
