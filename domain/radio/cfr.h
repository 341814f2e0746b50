// Channel frequency response from a channel impulse response, in Sionna's conventions.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <vector>

namespace trimtab::radio {

// Baseband-centred subcarrier frequencies in Hz: (k - floor(F/2)) x spacing, k = 0..F-1.
std::vector<double> subcarrier_frequencies(int64_t num_subcarriers, double spacing_hz);

// h(f) = sum_p a_p exp(-j 2 pi f tau_p); a path of negative delay does not exist. `response` [frequencies] is
// overwritten.
void frequency_response(std::span<const std::complex<double>> a, std::span<const double> tau_s,
                        std::span<const double> frequencies_hz, std::span<std::complex<double>> response);

}  // namespace trimtab::radio
