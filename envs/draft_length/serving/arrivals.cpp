#include "envs/draft_length/serving/arrivals.h"

#include <cmath>

#include "core/random.h"

namespace trimtab {
namespace {

// Gamma of mean `shape` and scale 1 (Marsaglia and Tsang 2000); below shape 1 by a power of a uniform number.
double gamma_of(Draws& draws, double shape) {
  if (shape < 1) return gamma_of(draws, shape + 1) * std::pow(draws.uniform(), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = draws.normal(), v = std::pow(1 + c * x, 3);
    if (v > 0 && -draws.exponential() < x * x / 2 + d * (1 - v + std::log(v))) return d * v;
  }
}

double gap_of(Draws& draws, double cv) {
  if (cv == 0) return 1;
  if (cv == 1) return draws.exponential();
  return cv * cv * gamma_of(draws, 1 / (cv * cv));
}

}  // namespace

void draw_arrivals(WorldKey key, double rate_per_ms, double cv, std::vector<double>& out) {
  double now = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    Draws draws(key.seed, Stream::kArrival, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32), static_cast<uint32_t>(i));
    out[i] = now += gap_of(draws, cv) / rate_per_ms;
  }
}

}  // namespace trimtab
