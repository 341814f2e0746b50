// Responses and antenna combining against plain double-precision sums.
#include "domain/radio/trace_response.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdlib>
#include <numbers>

#include "core/random.h"

namespace trimtab::radio {
namespace {

using Complex = std::complex<double>;

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text == nullptr ? 77 : std::strtoull(text, nullptr, 10);
}

Complex response(const Planes& a, const std::vector<double>& tau, int64_t paths, int64_t bins, int64_t bin,
                 int64_t lane, bool moving) {
  Complex sum = 0;
  for (int64_t m = 0; m < paths; ++m) {
    const double f = static_cast<double>(bin - bins / 2) * 30e3;
    const double delay = moving ? tau[m * kLanes + lane] : tau[m];
    sum += Complex(a.re[m * kLanes + lane], a.im[m * kLanes + lane]) *
           std::polar(1.0, -2 * std::numbers::pi * f * delay);
  }
  return sum;
}

struct Case {
  int64_t paths, bins;
};

class Response : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(GetParam().paths),
                static_cast<uint32_t>(GetParam().bins));
    a_.resize(GetParam().paths * kLanes);
    for (size_t i = 0; i < a_.re.size(); ++i) {
      a_.re[i] = draws.normal();
      a_.im[i] = draws.normal();
      tau_.push_back(5e-6 * draws.uniform());
    }
    h_.resize(GetParam().bins * kLanes);
  }
  void compare(bool moving) {
    const auto [paths, bins] = GetParam();
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const Complex want = response(a_, tau_, paths, bins, bin, lane, moving);
        const Complex got(h_.re[bin * kLanes + lane], h_.im[bin * kLanes + lane]);
        ASSERT_NEAR(std::abs(got - want), 0, 3e-5) << "bin " << bin << " lane " << lane;
      }
    }
  }
  Planes a_, h_;
  std::vector<double> tau_;
};

TEST_P(Response, OfFixedDelays) {
  const auto [paths, bins] = GetParam();
  Planes steering;
  steering_matrix(tau_.data(), paths, bins, 30e3, steering);
  response_fixed(steering, a_.re.data(), a_.im.data(), paths, bins, h_.re.data(), h_.im.data());
  compare(false);
}

TEST_P(Response, OfMovingDelays) {
  const auto [paths, bins] = GetParam();
  response_moving(tau_.data(), a_.re.data(), a_.im.data(), paths, bins, 30e3, h_.re.data(), h_.im.data());
  compare(true);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, Response, testing::Values(Case{1, 12}, Case{3, 24}, Case{23, 612}, Case{24, 3276}, Case{7, 36}),
    [](const auto& info) { return fmt::format("{}paths{}bins", info.param.paths, info.param.bins); });

// Antenna combining of one random link with eight PRBs.
class Antennas : public testing::Test {
 protected:
  static constexpr int64_t kRx = 2, kTx = 4, kPrb = 8, kBins = 12 * kPrb;
  void SetUp() override {
    Draws draws(test_seed(), Stream::kTest, 1);
    h_.resize(kRx * kTx * kBins * kLanes);
    for (size_t i = 0; i < h_.re.size(); ++i) {
      h_.re[i] = draws.normal();
      h_.im[i] = draws.normal();
    }
  }
  std::vector<float> gains(Precoder precoder, bool serving = true) const {
    std::vector<float> gain(kPrb * kLanes);
    combine_antennas(h_, {kRx, kTx, kBins, 12, serving, precoder}, gain.data());
    return gain;
  }
  Complex h(int64_t rx, int64_t tx, int64_t bin, int64_t lane) const {
    const auto at = static_cast<size_t>(((rx * kTx + tx) * kBins + bin) * kLanes + lane);
    return {h_.re[at], h_.im[at]};
  }
  // Power on one PRB behind weights w: sum over the user's antennas, mean over the PRB's subcarriers.
  double power(const std::vector<Complex>& w, int64_t prb, int64_t lane) const {
    double sum = 0;
    for (int64_t rx = 0; rx < kRx; ++rx) {
      for (int64_t bin = 12 * prb; bin < 12 * prb + 12; ++bin) {
        Complex y = 0;
        for (int64_t tx = 0; tx < kTx; ++tx) y += h(rx, tx, bin, lane) * w[tx];
        sum += std::norm(y) / 12;
      }
    }
    return sum;
  }
  double wideband(const std::vector<Complex>& w, int64_t lane) const {
    double sum = 0;
    for (int64_t prb = 0; prb < kPrb; ++prb) sum += power(w, prb, lane);
    return sum;
  }
  static double wideband(const std::vector<float>& gain, int64_t lane) {
    double sum = 0;
    for (int64_t prb = 0; prb < kPrb; ++prb) sum += gain[prb * kLanes + lane];
    return sum;
  }
  Planes h_;
};

TEST_F(Antennas, FirstAntennaAndAverage) {
  const auto first = gains(Precoder::kFirst), average = gains(Precoder::kAverage),
             other = gains(Precoder::kMrt, false);
  for (int64_t prb = 0; prb < kPrb; ++prb) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      double mean = 0;
      for (int64_t tx = 0; tx < kTx; ++tx) {
        std::vector<Complex> one(kTx);
        one[tx] = 1;
        mean += power(one, prb, lane) / kTx;
        const double alone = tx == 0 ? first[prb * kLanes + lane] : power(one, prb, lane);
        EXPECT_NEAR(alone / power(one, prb, lane), 1, 1e-5);
      }
      EXPECT_NEAR(average[prb * kLanes + lane] / mean, 1, 1e-5);
      EXPECT_NEAR(other[prb * kLanes + lane] / (mean / kRx), 1, 1e-5);  // interference: mean over all pairs
    }
  }
}

TEST_F(Antennas, DftTakesTheBestBeam) {
  const auto gain = gains(Precoder::kDft);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    double best = 0;
    for (int beam = 0; beam < kTx; ++beam) {
      std::vector<Complex> w;
      for (int i = 0; i < kTx; ++i)
        w.push_back(std::polar(1 / std::sqrt(kTx), -2 * std::numbers::pi * beam * i / kTx));
      best = std::max(best, wideband(w, lane));
    }
    EXPECT_NEAR(wideband(gain, lane) / best, 1, 1e-5);
  }
}

TEST_F(Antennas, NoWeightsBeatMaximumRatio) {
  const auto gain = gains(Precoder::kMrt), dft = gains(Precoder::kDft), first = gains(Precoder::kFirst);
  Draws draws(test_seed(), Stream::kTest, 2);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const double best = wideband(gain, lane);
    EXPECT_GE(best, 0.999 * wideband(dft, lane));
    EXPECT_GE(best, 0.999 * wideband(first, lane));
    for (int trial = 0; trial < 300; ++trial) {
      std::vector<Complex> w;
      double norm = 0;
      for (int i = 0; i < kTx; ++i) norm += std::norm(w.emplace_back(draws.normal(), draws.normal()));
      for (Complex& x : w) x /= std::sqrt(norm);
      EXPECT_GE(best, 0.999 * wideband(w, lane));
    }
  }
}

TEST_F(Antennas, MaximumRatioCollectsAllOfAFlatChannel) {
  for (int64_t rx = 0; rx < kRx; ++rx) {  // rank one: the same vector of base-station antennas everywhere
    for (int64_t tx = 0; tx < kTx; ++tx) {
      for (int64_t bin = 0; bin < kBins; ++bin) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const Complex value =
              std::polar(1.0 + tx, 0.7 * tx + 0.1 * lane) * std::polar(1.0 + rx, 0.05 * bin);
          const auto at = static_cast<size_t>(((rx * kTx + tx) * kBins + bin) * kLanes + lane);
          h_.re[at] = static_cast<float>(value.real());
          h_.im[at] = static_cast<float>(value.imag());
        }
      }
    }
  }
  const double all = (1 + 4 + 9 + 16) * (1 + 4);
  for (const float gain : gains(Precoder::kMrt)) EXPECT_NEAR(gain / all, 1, 1e-5);
}

TEST_F(Antennas, ZeroChannelGivesZeroGain) {
  std::fill(h_.re.begin(), h_.re.end(), 0.0f);
  std::fill(h_.im.begin(), h_.im.end(), 0.0f);
  for (const Precoder precoder : {Precoder::kMrt, Precoder::kDft, Precoder::kFirst, Precoder::kAverage}) {
    for (const float gain : gains(precoder)) EXPECT_EQ(gain, 0.0f);
  }
}

}  // namespace
}  // namespace trimtab::radio
