// The built-in source against 38.901's tables, Bessel's function and path losses as Sionna 2.2.0 computes
// them.
#include "domain/radio/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <numbers>

#include "core/error.h"

namespace trimtab::radio {
namespace {

const std::vector<std::string> kAllProfiles = {"tdl_a", "tdl_b", "tdl_c", "tdl_d", "tdl_e",
                                               "cdl_a", "cdl_b", "cdl_c", "cdl_d", "cdl_e"};

int64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text == nullptr ? 20240501 : std::atoll(text);
}

TEST(Synthetic, PathLossIsSionnas) {
  struct Case {
    const char* scenario;
    double carrier_hz;
    bool line_of_sight;
    double db[3];  // at 100, 1000 and 3000 m on the ground
  };
  const Case cases[] = {
      {"rma", 0.7e9, true, {70.2190, 93.3765, 112.4527}},
      {"rma", 0.7e9, false, {78.6944, 116.4449, 134.8693}},
      {"rma", 3.5e9, true, {84.1984, 105.4596, 118.0210}},
      {"rma", 3.5e9, false, {92.6738, 130.4243, 148.8487}},
      {"umi", 0.7e9, true, {78.3517, 118.2898, 137.3741}},
      {"umi", 0.7e9, false, {89.7558, 125.0011, 141.8430}},
      {"umi", 3.5e9, true, {85.3142, 119.1474, 138.2317}},
      {"umi", 3.5e9, false, {104.6438, 139.8892, 156.7311}},
      {"uma", 0.7e9, true, {69.1588, 107.8473, 126.9278}},
      {"uma", 0.7e9, false, {89.0581, 127.6866, 146.3284}},
      {"uma", 3.5e9, true, {83.1382, 109.4065, 128.4871}},
      {"uma", 3.5e9, false, {103.0375, 141.6660, 160.3078}},
  };
  for (const Case& c : cases) {
    const double distances[] = {100, 1000, 3000};
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(path_loss(c.scenario, c.line_of_sight, distances[i], c.carrier_hz).db, c.db[i], 2e-3)
          << c.scenario << " " << c.carrier_hz << " " << distances[i];
    }
  }
}

TEST(Synthetic, TapsHaveTheProfilesPowersAndDelays) {
  SyntheticOptions options;
  options.slots = 400;
  options.seed = test_seed();
  for (const std::string& name : kAllProfiles) {
    const Profile profile = profile_of(name);
    const std::vector<double> powers = profile.powers();
    double total = 0;
    for (size_t tap = 0; tap < powers.size(); ++tap) {
      double mean = 0;
      constexpr int kDrops = 60;
      for (uint32_t drop = 0; drop < kDrops; ++drop) {
        const UserMotion motion{15, 0.3 * drop};
        for (const auto& h : fading(profile, tap, options, motion, drop, 3))
          mean += std::norm(h) / (kDrops * options.slots);
      }
      EXPECT_NEAR(mean / powers[tap], 1, 0.25) << name << " tap " << tap;
      total += mean;
    }
    EXPECT_NEAR(total, 1, 0.05) << name;
  }
}

TEST(Synthetic, DelaySpreadIsTheOneAskedFor) {
  for (const std::string& name :
       kAllProfiles) {  // the tables are normalised to a root mean square delay of 1
    const Profile profile = profile_of(name);
    const std::vector<double> powers = profile.powers();
    double mean = 0, square = 0;
    for (size_t tap = 0; tap < powers.size(); ++tap) {
      mean += powers[tap] * profile.clusters[tap].delay;
      square += powers[tap] * profile.clusters[tap].delay * profile.clusters[tap].delay;
    }
    EXPECT_NEAR(std::sqrt(square - mean * mean), 1, 0.02) << name;
  }
}

TEST(Synthetic, TdlTapsDecorrelateAsBesselsFunction) {
  SyntheticOptions options;
  options.slots = 200;
  options.seed = test_seed();
  const Profile profile = profile_of("tdl_a");
  const UserMotion motion{10, 0};
  const double max_doppler = motion.speed * options.carrier_frequency / 299792458.0;
  for (const int lag : {0, 2, 4, 7, 10, 14, 20}) {
    double sum = 0, power = 0;
    for (uint32_t drop = 0; drop < 400; ++drop) {
      const auto h = fading(profile, 1, options, motion, drop, 0);
      for (size_t t = 0; t + 20 < h.size(); t += 7) {
        sum += std::real(h[t] * std::conj(h[t + lag]));
        power += std::norm(h[t]);
      }
    }
    const double want =
        std::cyl_bessel_j(0, 2 * std::numbers::pi * max_doppler * lag * slot_duration(options));
    EXPECT_NEAR(sum / power, want, 0.05) << "lag " << lag;
  }
}

TEST(Synthetic, LineOfSightTapDoesNotFade) {
  SyntheticOptions options;
  options.slots = 300;
  for (const std::string name : {"tdl_d", "tdl_e", "cdl_d", "cdl_e"}) {
    const Profile profile = profile_of(name);
    const double amplitude = std::sqrt(profile.powers()[0]);
    for (const auto& h : fading(profile, 0, options, {12, 1.0}, 5, 2))
      EXPECT_NEAR(std::abs(h), amplitude, 1e-5) << name;
  }
}

TEST(Synthetic, DropsDependOnNothingButTheirKey) {
  SyntheticOptions options;
  options.slots = 40;
  options.seed = test_seed();
  const auto first = synthetic_trace(options), second = synthetic_trace(options);
  second->drop(7);
  EXPECT_EQ(first->drop(3)->gain, second->drop(3)->gain);
  EXPECT_NE(first->drop(3)->gain, first->drop(4)->gain);
  EXPECT_EQ(first->info().hash, second->info().hash);
  options.seed += 1;
  const auto other = synthetic_trace(options);
  EXPECT_NE(first->drop(3)->gain, other->drop(3)->gain);
  EXPECT_NE(first->info().hash, other->info().hash);
}

TEST(Synthetic, GainsAreThoseOfTheScenario) {
  SyntheticOptions options;
  options.slots = 20;
  options.min_distance = options.max_distance = 100;
  options.seed = test_seed();
  const auto source = synthetic_trace(options);
  double mean_db = 0;
  constexpr int kDrops = 200;
  for (int drop = 0; drop < kDrops; ++drop) {
    for (int64_t user = 0; user < options.num_users; ++user) {
      double gain = 0;
      for (int64_t prb = 0; prb < options.num_prb; ++prb) {
        gain +=
            source->drop(drop)->at(0, 0)[user * options.num_prb + prb] / static_cast<double>(options.num_prb);
      }
      mean_db += 10 * std::log10(gain) / static_cast<double>(kDrops * options.num_users);
    }
  }
  // Fading averaged over 18 MHz costs a little in the mean of decibels; 2000 users of 7.8 dB shadowing give
  // 0.2 dB.
  EXPECT_NEAR(mean_db, -104.64, 1.5);
}

TEST(Synthetic, WrongOptionsAreRefused) {
  SyntheticOptions options;
  options.profile = "tdl_f";
  EXPECT_THROW(synthetic_trace(options), ConfigError);
  options = {};
  options.min_speed = 20;
  EXPECT_THROW(synthetic_trace(options), ConfigError);
  options = {};
  options.min_distance = 300;
  EXPECT_THROW(synthetic_trace(options), ConfigError);
}

}  // namespace
}  // namespace trimtab::radio
