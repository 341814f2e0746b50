// Seam 4, the clip: which probability ratios count, per row and with the derivative in closed form.
//
//   none                    L = -r A
//   symmetric, asymmetric   L = -min(r A, clip(r, 1 - low, 1 + high) A)   PPO (Schulman et al., arXiv
//                           1707.06347) and DAPO's clip-higher (Yu et al., arXiv 2503.14476)
//   dual                    asymmetric, and for A < 0 additionally L <= -dual A   (Ye et al., arXiv
//   1912.09729) dynamic                 dual, with bounds that depend on the sampling probability q of the
//   action
//                           (Yang et al., DCPO, arXiv 2509.02333), see dynamic_bounds
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace trimtab {

enum class ClipKind { kNone, kSymmetric, kAsymmetric, kDual, kDynamic };

struct ClipOptions {
  ClipKind kind = ClipKind::kSymmetric;
  double low = 0.2, high = 0.2;  // the ratio is kept in [1 - low, 1 + high]; symmetric: both are `low`
  double dual = 3.0;             // dual, dynamic: bound of the ratio for negative advantages
};

// The bound that verl puts on the log-ratio (core_algos.py). Cutting the log-ratio off, as it does there,
// takes the gradient away from the rows that have moved furthest; a tangent keeps it, and keeps the loss
// convex in d.
constexpr double kMaxExponent = 20;

template <class T>
struct Exponential {
  T value, slope;
};

// e^x and its derivative up to kMaxExponent, from there on the tangent: finite, increasing and
// differentiable.
template <class T>
Exponential<T> bounded_exp(T x) {
  constexpr T kMax = static_cast<T>(kMaxExponent);
  const T slope = std::exp(std::min(x, kMax));
  return {x > kMax ? slope * (1 + x - kMax) : slope, slope};
}

template <class T>
struct RatioBounds {
  T low, high;
};

// DCPO's dynamic-adaptive bounds: the r for which |(p / q - 1) p| = epsilon, p = r q, so that rare actions
// may move further than likely ones:
//   low  = 1/2 + 1/2 sqrt(max(1 - 4 epsilon_low / q, 0))             (1/2 once q <= 4 epsilon_low)
//   high = min(1/2 + 1/2 sqrt(1 + 4 epsilon_high / q), max(dual, 10))
// For a continuous action q is a density: the bounds then depend on the action's units.
template <class T>
RatioBounds<T> dynamic_bounds(T logp_old, const ClipOptions& clip) {
  constexpr double kCap = 10;
  const T inverse = bounded_exp(-logp_old).value;  // 1 / q
  const T below = std::max<T>(1 - 4 * static_cast<T>(clip.low) * inverse, 0);
  const T above = 1 + 4 * static_cast<T>(clip.high) * inverse;
  return {(1 + std::sqrt(below)) / 2,
          std::min<T>((1 + std::sqrt(above)) / 2, static_cast<T>(std::max(clip.dual, kCap)))};
}

template <class T>
RatioBounds<T> ratio_bounds(T logp_old, const ClipOptions& clip) {
  if (clip.kind == ClipKind::kDynamic) return dynamic_bounds(logp_old, clip);
  const double high = clip.kind == ClipKind::kSymmetric ? clip.low : clip.high;
  return {1 - static_cast<T>(clip.low), 1 + static_cast<T>(high)};
}

// Which bound decided a row's loss. Only clips that bite count, as TRL counts them: below the lower bound
// with A < 0, above the upper one with A > 0.
enum class Clipped { kNo, kLow, kHigh, kDual };

template <class T>
struct Surrogate {
  T loss, d_ratio;
  Clipped clipped;
};

// One row's surrogate and its derivative with respect to the ratio; 0 where a branch is constant in it.
// `logp_old` is read by the dynamic bounds alone.
template <class T>
Surrogate<T> clipped_surrogate(T ratio, T advantage, const ClipOptions& clip, T logp_old = 0) {
  const T free = ratio * advantage;
  if (clip.kind == ClipKind::kNone) return {-free, -advantage, Clipped::kNo};
  const RatioBounds<T> bounds = ratio_bounds(logp_old, clip);
  const T bounded = std::clamp<T>(ratio, bounds.low, bounds.high) * advantage;
  const bool dual = clip.kind == ClipKind::kDual || clip.kind == ClipKind::kDynamic;
  const T floor = static_cast<T>(clip.dual) * advantage;
  if (dual && advantage < 0 && floor > std::min(free, bounded)) return {-floor, 0, Clipped::kDual};
  if (bounded < free) return {-bounded, 0, advantage < 0 ? Clipped::kLow : Clipped::kHigh};
  return {-free, -advantage, Clipped::kNo};
}

}  // namespace trimtab
