// When requests come: a renewal process whose gaps are gamma distributed with mean 1 / rate and coefficient of variation `cv` (1: Poisson;
// above: bursts). A gap belongs to (seed, episode, request), so every policy meets the same arrivals.
#pragma once

#include <vector>

#include "envs/environment.h"

namespace trimtab {

// Fills `out` with times in ms, rising; the clock starts at 0.
void draw_arrivals(WorldKey key, double rate_per_ms, double cv, std::vector<double>& out);

}  // namespace trimtab
