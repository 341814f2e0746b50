#include "envs/draft_length/serving/arrivals.h"

#include <cmath>

#include "core/gamma.h"
#include "core/random.h"

namespace trimtab {
namespace {

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
