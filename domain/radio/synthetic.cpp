// Built-in channel source: 3GPP TR 38.901 tapped-delay-line profiles TDL-A..E (7.7.2) and
// clustered-delay-line profiles CDL-A..E (7.7.1) seen by one antenna, with path loss and shadowing of UMi,
// UMa and RMa (7.4.1).
//
// A drop places every user uniformly over a ring around the station and gives it a speed and a direction,
// constant for the drop. Taps fade by a sum of sinusoids (Jakes spectrum, stratified angles) or, for CDL, by
// the twenty rays of each cluster. Everything is a function of (seed, drop, user, tap) by counter-based
// draws, so any drop can be made alone. Against full 38.901: profile and line of sight are the same for all
// users, no indoor loss, no correlation of shadowing between users.
#include "domain/radio/synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/files.h"
#include "core/random.h"
#include "core/text.h"
#include "domain/radio/trace_cache.h"
#include "domain/radio/trace_response.h"

namespace trimtab::radio {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kLightSpeed = 299792458.0;
constexpr double kUserHeight = 1.5;           // m
constexpr uint32_t kUserDraws = 0xffffffffu;  // in place of a tap: position, speed, shadowing
constexpr int64_t kNumDrops = INT32_MAX;
constexpr int kSinusoids = 32;
constexpr double kLineOfSightDoppler = 0.7;  // of the maximum, TDL-D and E (7.7.2)

std::vector<std::string> profiles() {
  return {"tdl_a", "tdl_b", "tdl_c", "tdl_d", "tdl_e", "cdl_a", "cdl_b", "cdl_c", "cdl_d", "cdl_e"};
}
std::vector<std::string> scenarios() { return {"umi", "uma", "rma"}; }

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Offsets of the rays of a cluster, in units of its spread (table 7.5-3); each with both signs.
constexpr std::array<double, 10> kRayOffsets = {0.0447, 0.1413, 0.2492, 0.3715, 0.5129,
                                                0.6797, 0.8844, 1.1481, 1.5195, 2.1551};

double log10_squares(double a, double b) { return std::log10(a * a + b * b); }

double distance_3d(double distance_2d, double station_height) {
  return std::hypot(distance_2d, station_height - kUserHeight);
}

// Effective heights are one metre lower over city streets.
double break_point(double station_height, double carrier_hz) {
  return 4 * (station_height - 1) * (kUserHeight - 1) * carrier_hz / kLightSpeed;
}

PathLoss umi(bool line_of_sight, double d2, double carrier_hz) {
  constexpr double kHeight = 10;
  const double d3 = distance_3d(d2, kHeight), ghz = carrier_hz / 1e9, bp = break_point(kHeight, carrier_hz);
  const double near = 32.4 + 21 * std::log10(d3) + 20 * std::log10(ghz);
  const double far =
      32.4 + 40 * std::log10(d3) + 20 * std::log10(ghz) - 9.5 * log10_squares(bp, kHeight - kUserHeight);
  const double los = d2 <= bp ? near : far;
  if (line_of_sight) return {los, 4.0};
  return {std::max(los, 35.3 * std::log10(d3) + 22.4 + 21.3 * std::log10(ghz) - 0.3 * (kUserHeight - 1.5)),
          7.82};
}

PathLoss uma(bool line_of_sight, double d2, double carrier_hz) {
  constexpr double kHeight = 25;
  const double d3 = distance_3d(d2, kHeight), ghz = carrier_hz / 1e9, bp = break_point(kHeight, carrier_hz);
  const double near = 28.0 + 22 * std::log10(d3) + 20 * std::log10(ghz);
  const double far =
      28.0 + 40 * std::log10(d3) + 20 * std::log10(ghz) - 9 * log10_squares(bp, kHeight - kUserHeight);
  const double los = d2 <= bp ? near : far;
  if (line_of_sight) return {los, 4.0};
  return {std::max(los, 13.54 + 39.08 * std::log10(d3) + 20 * std::log10(ghz) - 0.6 * (kUserHeight - 1.5)),
          6.0};
}

PathLoss rma(bool line_of_sight, double d2, double carrier_hz) {
  constexpr double kHeight = 35, kBuilding = 5, kStreet = 20;  // the table's defaults, m
  const double ghz = carrier_hz / 1e9, bp = 2 * kPi * kHeight * kUserHeight * carrier_hz / kLightSpeed;
  const auto near = [&](double d3) {
    return 20 * std::log10(40 * kPi * d3 * ghz / 3) +
           std::min(0.03 * std::pow(kBuilding, 1.72), 10.0) * std::log10(d3) -
           std::min(0.044 * std::pow(kBuilding, 1.72), 14.77) + 0.002 * std::log10(kBuilding) * d3;
  };
  const double d3 = distance_3d(d2, kHeight);
  const bool beyond = d2 > bp;
  const double los = beyond ? near(bp) + 40 * std::log10(d3 / bp) : near(d3);
  if (line_of_sight) return {los, beyond ? 6.0 : 4.0};
  const double nlos = 161.04 - 7.1 * std::log10(kStreet) + 7.5 * std::log10(kBuilding) -
                      (24.37 - 3.7 * std::pow(kBuilding / kHeight, 2)) * std::log10(kHeight) +
                      (43.42 - 3.1 * std::log10(kHeight)) * (std::log10(d3) - 3) + 20 * std::log10(ghz) -
                      (3.2 * std::pow(std::log10(11.75 * kUserHeight), 2) - 4.97);
  return {std::max(los, nlos), 8.0};
}

// A sinusoid of the fading: amplitude, frequency in Hz, phase in rad.
struct Sinusoid {
  double amplitude = 0, frequency = 0, phase = 0;
};

std::vector<Sinusoid> jakes(double max_doppler, double power, Draws& draws) {
  std::vector<Sinusoid> out;
  const double turn = draws.uniform();
  for (int n = 0; n < kSinusoids; ++n) {
    const double angle = 2 * kPi * (n + turn) / kSinusoids;
    out.push_back({std::sqrt(power / kSinusoids), max_doppler * std::cos(angle), 2 * kPi * draws.uniform()});
  }
  return out;
}

std::vector<Sinusoid> cluster_rays(const Profile& profile, const Cluster& cluster, double max_doppler,
                                   double travel_azimuth, double power, Draws& draws) {
  constexpr size_t kRays = 2 * kRayOffsets.size();
  std::array<double, kRays> zenith_offsets{};
  for (size_t ray = 0; ray < kRays; ++ray)
    zenith_offsets[ray] = kRayOffsets[ray / 2] * (ray % 2 == 0 ? 1 : -1);
  for (size_t ray = kRays; ray > 1; --ray)
    std::swap(zenith_offsets[ray - 1], zenith_offsets[draws.below(ray)]);  // 7.5-8
  std::vector<Sinusoid> out;
  for (size_t ray = 0; ray < kRays; ++ray) {
    const double offset = kRayOffsets[ray / 2] * (ray % 2 == 0 ? 1 : -1);
    const double azimuth = (cluster.azimuth_deg + profile.azimuth_spread_deg * offset) * kPi / 180;
    const double zenith = (cluster.zenith_deg + profile.zenith_spread_deg * zenith_offsets[ray]) * kPi / 180;
    out.push_back({std::sqrt(power / kRays),
                   max_doppler * std::sin(zenith) * std::cos(azimuth - travel_azimuth),
                   2 * kPi * draws.uniform()});
  }
  return out;
}

std::vector<Sinusoid> sinusoids(const Profile& profile, size_t tap, double max_doppler, double travel_azimuth,
                                Draws& draws) {
  const Cluster& cluster = profile.clusters[tap];
  const double power = profile.powers()[tap];
  if (tap == 0 && profile.line_of_sight) {
    const double share = profile.rays ? std::sin(cluster.zenith_deg * kPi / 180) *
                                            std::cos(cluster.azimuth_deg * kPi / 180 - travel_azimuth)
                                      : kLineOfSightDoppler;
    return {{std::sqrt(power), max_doppler * share, 2 * kPi * draws.uniform()}};
  }
  return profile.rays ? cluster_rays(profile, cluster, max_doppler, travel_azimuth, power, draws)
                      : jakes(max_doppler, power, draws);
}

struct User {
  double gain = 0;  // path loss and shadowing, linear
  UserMotion motion;
};

User place_user(const SyntheticOptions& options, const Profile& profile, uint32_t drop, uint32_t user) {
  Draws draws(static_cast<uint64_t>(options.seed), Stream::kChannel, drop, user, kUserDraws);
  User out;
  const double low = options.min_distance, high = options.max_distance;  // uniform over the ring's area
  const double distance = std::sqrt(low * low + (high * high - low * low) * draws.uniform());
  out.motion.speed = options.min_speed + (options.max_speed - options.min_speed) * draws.uniform();
  out.motion.azimuth_rad = 2 * kPi * draws.uniform();
  const PathLoss loss =
      path_loss(options.scenario, profile.line_of_sight, distance, options.carrier_frequency);
  out.gain = std::pow(10.0, -(loss.db + loss.shadowing_db * draws.normal()) / 10);
  return out;
}

class SyntheticTrace : public TraceSource {
 public:
  explicit SyntheticTrace(const SyntheticOptions& options)
      : options_(options), profile_(profile_of(options.profile)), source_(DropCache::get().new_source()) {
    for (const Cluster& cluster : profile_.clusters)
      delays_.push_back(cluster.delay * options.delay_spread_ns * 1e-9);
    bins_ = 12 * options.num_prb;
    steering_matrix(delays_.data(), static_cast<int64_t>(delays_.size()), bins_, options.subcarrier_spacing,
                    steering_);
    describe_source();
  }
  ~SyntheticTrace() override { DropCache::get().forget(source_); }
  const TraceInfo& info() const override { return info_; }
  std::shared_ptr<const DropGains> drop(int64_t index) const override {
    TT_CHECK(index >= 0 && index < kNumDrops, "drop {} of {}", index, kNumDrops);
    return DropCache::get().find(source_, index, [&] { return make_drop(static_cast<uint32_t>(index)); });
  }

 private:
  void describe_source();

  DropGains make_drop(uint32_t drop) const {
    DropGains out{options_.slots, options_.num_users, 1, options_.num_prb, {}};
    out.gain.resize(static_cast<size_t>(out.num_slots * out.num_users * out.num_prb));
    for (uint32_t user = 0; user < static_cast<uint32_t>(options_.num_users); ++user)
      make_user(drop, user, out);
    return out;
  }

  void make_user(uint32_t drop, uint32_t index, DropGains& out) const {
    const User user = place_user(options_, profile_, drop, index);
    const size_t taps = delays_.size();
    std::vector<std::vector<std::complex<float>>> a;
    for (size_t tap = 0; tap < taps; ++tap)
      a.push_back(fading(profile_, tap, options_, user.motion, drop, index));
    Planes block, h;
    block.resize(taps * kLanes);
    h.resize(static_cast<size_t>(bins_ * kLanes));
    const Combining how{.bins = bins_};
    std::vector<float> gain(static_cast<size_t>(out.num_prb * kLanes));
    for (int64_t first = 0; first < out.num_slots; first += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, out.num_slots - first);
      for (size_t tap = 0; tap < taps; ++tap) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          block.re[tap * kLanes + lane] = a[tap][first + lane].real();
          block.im[tap * kLanes + lane] = a[tap][first + lane].imag();
        }
      }
      response_fixed(steering_, block.re.data(), block.im.data(), static_cast<int64_t>(taps), bins_,
                     h.re.data(), h.im.data());
      std::fill(gain.begin(), gain.end(), 0.0f);
      combine_antennas(h, how, gain.data());
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float* to = out.gain.data() + ((first + lane) * out.num_users + index) * out.num_prb;
        for (int64_t prb = 0; prb < out.num_prb; ++prb) {
          to[prb] = static_cast<float>(user.gain) * gain[static_cast<size_t>(prb * kLanes + lane)];
        }
      }
    }
  }

  SyntheticOptions options_;
  Profile profile_;
  const int64_t source_;
  std::vector<double> delays_;  // s
  int64_t bins_ = 0;
  Planes steering_;
  TraceInfo info_;
};

void SyntheticTrace::describe_source() {
  const SyntheticOptions& o = options_;
  const std::string text =
      fmt::format("synthetic:{}:{}:{}:{}:{}:{}:{}:{}:{}:{}:{}:{}:{}", o.profile, o.scenario,
                  o.delay_spread_ns, o.num_users, o.num_prb, o.slots, o.carrier_frequency,
                  o.subcarrier_spacing, o.min_speed, o.max_speed, o.min_distance, o.max_distance, o.seed);
  info_.file = text;
  info_.hash = hash_bytes(text);
  info_.layout = "synthetic";
  info_.encoding = "none";
  info_.axis0 = "episode";
  info_.num_drops = kNumDrops;
  info_.slots_per_drop = o.slots;
  info_.num_users = o.num_users;
  info_.num_tx = info_.rx_antennas = info_.tx_antennas = 1;
  info_.num_paths = static_cast<int64_t>(delays_.size());
  info_.num_prb = o.num_prb;
  info_.carrier_frequency = o.carrier_frequency;
  info_.subcarrier_spacing = o.subcarrier_spacing;
  info_.slot_duration = slot_duration(o);
  info_.sampling_frequency = 1 / info_.slot_duration;
  info_.generator = "trimtab, TR 38.901 " + o.profile;
  info_.scene = o.scenario;
  info_.seed = o.seed;
}

}  // namespace

std::vector<double> Profile::powers() const {
  std::vector<double> out;
  double sum = 0;
  for (const Cluster& cluster : clusters) sum += out.emplace_back(std::pow(10.0, cluster.power_db / 10));
  for (double& power : out) power /= sum;
  return out;
}

PathLoss path_loss(const std::string& scenario, bool line_of_sight, double distance_2d_m, double carrier_hz) {
  if (scenario == "uma") return uma(line_of_sight, distance_2d_m, carrier_hz);
  return scenario == "rma" ? rma(line_of_sight, distance_2d_m, carrier_hz)
                           : umi(line_of_sight, distance_2d_m, carrier_hz);
}

double slot_duration(const SyntheticOptions& options) {
  return 1e-3 * 15e3 / options.subcarrier_spacing;
}  // 38.211 4.3.2

std::vector<std::complex<float>> fading(const Profile& profile, size_t tap, const SyntheticOptions& options,
                                        const UserMotion& motion, uint32_t drop, uint32_t user) {
  Draws draws(static_cast<uint64_t>(options.seed), Stream::kChannel, drop, user, static_cast<uint32_t>(tap));
  const double max_doppler = motion.speed * options.carrier_frequency / kLightSpeed;
  std::vector<std::complex<double>> sum(static_cast<size_t>(options.slots));
  for (const Sinusoid& s : sinusoids(profile, tap, max_doppler, motion.azimuth_rad, draws)) {
    std::complex<double> z = std::polar(s.amplitude, s.phase);
    const std::complex<double> step = std::polar(1.0, 2 * kPi * s.frequency * slot_duration(options));
    for (auto& value : sum) {
      value += z;
      z = {z.real() * step.real() - z.imag() * step.imag(), z.real() * step.imag() + z.imag() * step.real()};
    }
  }
  return {sum.begin(), sum.end()};
}

void SyntheticOptions::describe(Fields& f) {
  f.choice("profile", profile, profiles(), "power-delay profile of TR 38.901; d and e have line of sight");
  f.choice("scenario", scenario, scenarios(), "path loss and shadowing of TR 38.901");
  f.number("delay_spread_ns", delay_spread_ns,
           {.low = 1, .high = 10000, .unit = "ns", .doc = "root mean square delay spread"});
  f.integer("num_users", num_users, {.low = 1, .high = 1024, .doc = "users in the cell"});
  f.integer("num_prb", num_prb, {.low = 1, .high = 275, .unit = "PRB", .doc = "resource blocks"});
  f.integer("slots", slots, {.low = 1, .high = 1000000, .unit = "slots", .doc = "length of a drop"});
  f.number("carrier_frequency", carrier_frequency,
           {.low = 0.5e9, .high = 100e9, .unit = "Hz", .doc = "carrier"});
  f.number("subcarrier_spacing", subcarrier_spacing,
           {.low = 15e3,
            .high = 960e3,
            .unit = "Hz",
            .doc = "subcarrier spacing; a slot lasts 1 ms x 15 kHz / spacing"});
  f.number("min_speed", min_speed, {.low = 0, .high = 150, .unit = "m/s", .doc = "slowest user"});
  f.number("max_speed", max_speed, {.low = 0, .high = 150, .unit = "m/s", .doc = "fastest user"});
  f.number("min_distance", min_distance,
           {.low = 10, .high = 10000, .unit = "m", .doc = "closest user, on the ground"});
  f.number("max_distance", max_distance,
           {.low = 10, .high = 10000, .unit = "m", .doc = "farthest user, on the ground"});
  f.integer("seed", seed, {.low = 0, .doc = "other seeds, other drops"});
}

void SyntheticOptions::validate() const {
  if (!contains(profiles(), profile) || !contains(scenarios(), scenario)) {
    throw ConfigError(
        fmt::format("synthetic trace: there is no profile \"{}\" or no scenario \"{}\"; take one of {}; {}",
                    profile, scenario, join(profiles(), ", "), join(scenarios(), ", ")));
  }
  if (min_speed > max_speed) {
    throw ConfigError(fmt::format("synthetic trace: min_speed {} is above max_speed {}; exchange them",
                                  min_speed, max_speed));
  }
  if (min_distance > max_distance) {
    throw ConfigError(fmt::format("synthetic trace: min_distance {} is above max_distance {}; exchange them",
                                  min_distance, max_distance));
  }
}

std::shared_ptr<TraceSource> synthetic_trace(const SyntheticOptions& options) {
  options.validate();
  return std::make_shared<SyntheticTrace>(options);
}

}  // namespace trimtab::radio
