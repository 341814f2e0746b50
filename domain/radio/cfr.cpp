#include "domain/radio/cfr.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace trimtab::radio {

std::vector<double> subcarrier_frequencies(int64_t num_subcarriers, double spacing_hz) {
  std::vector<double> frequencies(static_cast<size_t>(num_subcarriers));
  for (int64_t k = 0; k < num_subcarriers; ++k)
    frequencies[static_cast<size_t>(k)] = static_cast<double>(k - num_subcarriers / 2) * spacing_hz;
  return frequencies;
}

void frequency_response(std::span<const std::complex<double>> a, std::span<const double> tau_s,
                        std::span<const double> frequencies_hz, std::span<std::complex<double>> response) {
  TT_CHECK_EQ(a.size(), tau_s.size());
  TT_CHECK_EQ(frequencies_hz.size(), response.size());
  std::fill(response.begin(), response.end(), std::complex<double>());
  for (size_t p = 0; p < a.size(); ++p) {
    if (tau_s[p] < 0) continue;
    for (size_t k = 0; k < response.size(); ++k)
      response[k] += a[p] * std::polar(1.0, -2 * std::numbers::pi * frequencies_hz[k] * tau_s[p]);
  }
}

}  // namespace trimtab::radio
