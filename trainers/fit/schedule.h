// Schedules of step size and other coefficients over the progress of a run (or phase), 0 to 1.
#pragma once

#include <algorithm>
#include <cmath>

namespace trimtab {

enum class Schedule { kConstant, kLinear, kCosine };

// Rises linearly over the first `warmup` share, then goes from `start` to `end` (kConstant: stays at
// `start`).
inline double scheduled(Schedule kind, double start, double end, double warmup, double progress) {
  progress = std::clamp(progress, 0.0, 1.0);
  if (progress < warmup) return start * progress / warmup;
  const double rest = warmup < 1 ? (progress - warmup) / (1 - warmup) : 1;
  if (kind == Schedule::kLinear) return start + (end - start) * rest;
  if (kind == Schedule::kCosine)
    return end + (start - end) * 0.5 * (1 + std::cos(3.14159265358979323846 * rest));
  return start;
}

}  // namespace trimtab
