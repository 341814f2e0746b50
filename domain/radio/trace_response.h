// From path gains and delays to power per physical resource block, sixteen instants of one link at a time.
//
// h(f) = sum_m a_m exp(-j 2 pi f tau_m), f = (k - floor(F/2)) spacing, k = 0..F-1: Sionna's
// cir_to_ofdm_channel (a is complex baseband already). Every array has the instants innermost, so that one
// vector register holds one of them.
#pragma once

#include <cstdint>
#include <vector>

#include "domain/radio/trace_format.h"

namespace trimtab::radio {

constexpr int kLanes = 16;  // floats of a 512-bit register

// Complex numbers as two planes.
struct Planes {
  std::vector<float> re, im;
  void resize(size_t n) {
    re.resize(n);
    im.resize(n);
  }
};

// Steering matrix exp(-j 2 pi f_k tau_m) of delays that do not change over the instants: [bins, paths].
void steering_matrix(const double* tau, int64_t paths, int64_t bins, double spacing, Planes& out);

// h [bins, lanes] from steering [bins, paths] and a [paths, lanes].
void response_fixed(const Planes& steering, const float* a_re, const float* a_im, int64_t paths, int64_t bins,
                    float* h_re, float* h_im);

// h [bins, lanes] from tau [paths, lanes] and a [paths, lanes]: delays differ from instant to instant, so
// phasors are advanced from one subcarrier to the next (and anchored anew, in double, once a PRB).
void response_moving(const double* tau, const float* a_re, const float* a_im, int64_t paths, int64_t bins,
                     double spacing, float* h_re, float* h_im);

// What combining the antennas of one link needs to know.
struct Combining {
  int64_t rx_antennas = 1, tx_antennas = 1, bins = 0, bins_per_prb = 12;
  bool serving = true;  // interfering stations are received with the mean over all antenna pairs
  Precoder precoder = Precoder::kMrt;
};

// Adds scale * gain of each PRB to gain [prbs, lanes]; h [rx_ant, tx_ant, bins, lanes]. For a serving link
// the user combines by maximum ratio (sum over its antennas) and the station uses the precoder; see
// docs/traces.md.
void combine_antennas(const Planes& h, const Combining& how, float* gain);

}  // namespace trimtab::radio
