// The parts of the built-in channel source, for its tests. SyntheticOptions and synthetic_trace() are in
// trace.h.
#pragma once

#include <complex>
#include <cstdint>
#include <string>
#include <vector>

#include "domain/radio/trace.h"

namespace trimtab::radio {

struct Cluster {
  double delay = 0;  // times the delay spread
  double power_db = 0;
  double azimuth_deg = 0, zenith_deg = 90;  // of arrival; used by CDL profiles
};

struct Profile {
  std::vector<Cluster> clusters;
  bool rays = false;           // CDL: 20 rays per cluster at the table's angles; TDL: Jakes spectrum
  bool line_of_sight = false;  // the first cluster is the specular path
  double azimuth_spread_deg = 0, zenith_spread_deg = 0;  // within a cluster (c_ASA, c_ZSA)
  std::vector<double> powers() const;                    // linear, sum 1
};
Profile profile_of(const std::string& name);  // "tdl_a" .. "cdl_e"

// Path loss in dB and the standard deviation of shadowing, TR 38.901 table 7.4.1-1, outdoor user at 1.5 m.
struct PathLoss {
  double db = 0, shadowing_db = 0;
};
PathLoss path_loss(const std::string& scenario, bool line_of_sight, double distance_2d_m, double carrier_hz);

// One user's fading: unit mean power over all taps together.
struct UserMotion {
  double speed = 0;        // m/s
  double azimuth_rad = 0;  // direction of travel
};
// Coefficients of tap `tap` at the starts of `slots` slots, times the square root of its power.
std::vector<std::complex<float>> fading(const Profile& profile, size_t tap, const SyntheticOptions& options,
                                        const UserMotion& motion, uint32_t drop, uint32_t user);

double slot_duration(const SyntheticOptions& options);  // s, of the numerology

}  // namespace trimtab::radio
