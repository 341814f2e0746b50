// Channel responses and antenna combining. See trace_response.h.
#include "domain/radio/trace_response.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstring>
#include <numbers>

// One binary, the best instruction set at run time. Sanitizers instrument before the dispatcher could run.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TRIMTAB_CLONES __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define TRIMTAB_CLONES
#endif

namespace trimtab::radio {
namespace {

typedef float Vec
    __attribute__((vector_size(kLanes * sizeof(float))));  // lowered to narrower registers where need be

constexpr int64_t kBinsPerAnchor = 12;

inline void load(Vec& out, const float* from) { std::memcpy(&out, from, sizeof(Vec)); }
inline void store(float* to, const Vec& value) { std::memcpy(to, &value, sizeof(Vec)); }

// Four subcarriers at a time: eight accumulators, so that every load of a path gain serves four of them.
TRIMTAB_CLONES void response_fixed_kernel(const float* steer_re, const float* steer_im, const float* a_re,
                                          const float* a_im, int64_t paths, int64_t bins, float* h_re,
                                          float* h_im) {
  constexpr int kRows = 4;
  for (int64_t first = 0; first < bins; first += kRows) {
    Vec re[kRows] = {}, im[kRows] = {};
    const int64_t rows = std::min<int64_t>(kRows, bins - first);
    const float* rows_re[kRows];
    const float* rows_im[kRows];
    for (int k = 0; k < kRows; ++k) {
      const int64_t row = first + std::min<int64_t>(k, rows - 1);
      rows_re[k] = steer_re + row * paths;
      rows_im[k] = steer_im + row * paths;
    }
    for (int64_t m = 0; m < paths; ++m) {
      Vec x, y;
      load(x, a_re + m * kLanes);
      load(y, a_im + m * kLanes);
      for (int k = 0; k < kRows; ++k) {
        const float c = rows_re[k][m], s = rows_im[k][m];
        re[k] += c * x - s * y;
        im[k] += c * y + s * x;
      }
    }
    for (int64_t k = 0; k < rows; ++k) {
      store(h_re + (first + k) * kLanes, re[k]);
      store(h_im + (first + k) * kLanes, im[k]);
    }
  }
}

// One anchor's worth of subcarriers: z = a * exp(-j 2 pi f_first tau) moves on by `step` from subcarrier to
// subcarrier.
TRIMTAB_CLONES void response_moving_kernel(const float* z_re, const float* z_im, const float* step_re,
                                           const float* step_im, int64_t paths, int64_t bins, float* h_re,
                                           float* h_im) {
  Vec re[kBinsPerAnchor] = {}, im[kBinsPerAnchor] = {};
  for (int64_t m = 0; m < paths; ++m) {
    Vec x, y, c, s;
    load(x, z_re + m * kLanes);
    load(y, z_im + m * kLanes);
    load(c, step_re + m * kLanes);
    load(s, step_im + m * kLanes);
    for (int k = 0; k < kBinsPerAnchor; ++k) {
      re[k] += x;
      im[k] += y;
      const Vec next = x * c - y * s;
      y = x * s + y * c;
      x = next;
    }
  }
  for (int64_t k = 0; k < bins; ++k) {
    store(h_re + k * kLanes, re[k]);
    store(h_im + k * kLanes, im[k]);
  }
}

TRIMTAB_CLONES void add_power(const float* re, const float* im, int64_t bins, float scale, float* out) {
  Vec sum = {};
  for (int64_t k = 0; k < bins; ++k) {
    Vec x, y;
    load(x, re + k * kLanes);
    load(y, im + k * kLanes);
    sum += x * x + y * y;
  }
  Vec total;
  load(total, out);
  total += scale * sum;
  store(out, total);
}

// out += x * conj(y), both [bins, lanes]
TRIMTAB_CLONES void add_product(const float* x_re, const float* x_im, const float* y_re, const float* y_im,
                                int64_t bins, float* out_re, float* out_im) {
  Vec re, im;
  load(re, out_re);
  load(im, out_im);
  for (int64_t k = 0; k < bins; ++k) {
    Vec a, b, c, d;
    load(a, x_re + k * kLanes);
    load(b, x_im + k * kLanes);
    load(c, y_re + k * kLanes);
    load(d, y_im + k * kLanes);
    re += a * c + b * d;
    im += b * c - a * d;
  }
  store(out_re, re);
  store(out_im, im);
}

std::complex<double> phasor(double cycles) {
  const double angle = -2 * std::numbers::pi * (cycles - std::round(cycles));
  return {std::cos(angle), std::sin(angle)};
}

// ---- Precoders. R = sum over rx antennas and subcarriers of conj(h_i) h_j, wideband; power with weights w
// is w^H R w. ----

using Complex = std::complex<float>;
using Matrix = std::vector<Complex>;  // [tx_ant, tx_ant] of one instant

double quadratic_form(const Matrix& r, const std::vector<Complex>& w) {
  const size_t n = w.size();
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    Complex row = 0;
    for (size_t j = 0; j < n; ++j) row += r[i * n + j] * w[j];
    sum += std::real(std::conj(w[i]) * row);
  }
  return sum;
}

// Principal eigenvector by power iteration, from the column of the strongest antenna.
std::vector<Complex> principal_vector(const Matrix& r, size_t n) {
  size_t strongest = 0;
  for (size_t i = 1; i < n; ++i) {
    if (r[i * n + i].real() > r[strongest * n + strongest].real()) strongest = i;
  }
  std::vector<Complex> w(n), next(n);
  w[strongest] = 1;
  double power = 0;
  constexpr int kIterations = 100;  // ends far sooner by the criterion below
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    double norm = 0;
    for (size_t i = 0; i < n; ++i) {
      next[i] = 0;
      for (size_t j = 0; j < n; ++j) next[i] += r[i * n + j] * w[j];
      norm += std::norm(std::complex<double>(next[i]));
    }
    if (norm == 0) break;
    for (size_t i = 0; i < n; ++i) w[i] = Complex(std::complex<double>(next[i]) / std::sqrt(norm));
    const double now = quadratic_form(r, w);
    if (now <= power * (1 + 1e-6)) break;  // float32 has nothing more to give
    power = now;
  }
  return w;
}

std::vector<Complex> dft_beam(size_t beam, size_t n) {
  std::vector<Complex> w(n);
  for (size_t i = 0; i < n; ++i) {
    w[i] = Complex(phasor(static_cast<double>(beam * i) / static_cast<double>(n)) /
                   std::sqrt(static_cast<double>(n)));
  }
  return w;
}

std::vector<Complex> best_dft_beam(const Matrix& r, size_t n) {
  std::vector<Complex> best;
  double power = -1;
  for (size_t beam = 0; beam < n; ++beam) {
    std::vector<Complex> w = dft_beam(beam, n);
    const double now = quadratic_form(r, w);
    if (now > power) {
      power = now;
      best = std::move(w);
    }
  }
  return best;
}

// Weights [tx_ant, lanes] of a wideband precoder, one set per instant.
Planes wideband_weights(const Planes& h, const Combining& how) {
  const int64_t n = how.tx_antennas, block = how.bins * kLanes;
  Planes r;  // [tx_ant, tx_ant, lanes]
  r.resize(static_cast<size_t>(n * n * kLanes));
  for (int64_t antenna = 0; antenna < how.rx_antennas; ++antenna) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t hi = (antenna * n + i) * block, hj = (antenna * n + j) * block,
                      at = (i * n + j) * kLanes;
        add_product(&h.re[hj], &h.im[hj], &h.re[hi], &h.im[hi], how.bins, &r.re[at], &r.im[at]);
      }
    }
  }
  Planes weights;
  weights.resize(static_cast<size_t>(n * kLanes));
  Matrix one(static_cast<size_t>(n * n));
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    for (int64_t k = 0; k < n * n; ++k) one[k] = {r.re[k * kLanes + lane], r.im[k * kLanes + lane]};
    const auto size = static_cast<size_t>(n);
    const auto w = how.precoder == Precoder::kDft ? best_dft_beam(one, size) : principal_vector(one, size);
    for (int64_t i = 0; i < n; ++i) {
      weights.re[i * kLanes + lane] = w[i].real();
      weights.im[i * kLanes + lane] = w[i].imag();
    }
  }
  return weights;
}

void add_mean_over_pairs(const Planes& h, const Combining& how, float scale, float* gain) {
  const int64_t pairs = how.rx_antennas * how.tx_antennas, prbs = how.bins / how.bins_per_prb;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    for (int64_t prb = 0; prb < prbs; ++prb) {
      const int64_t at = (pair * how.bins + prb * how.bins_per_prb) * kLanes;
      add_power(&h.re[at], &h.im[at], how.bins_per_prb, scale, gain + prb * kLanes);
    }
  }
}

// y = sum over tx antennas of h w, for one antenna of the user; [bins, lanes]
TRIMTAB_CLONES void precode(const float* h_re, const float* h_im, const float* w_re, const float* w_im,
                            int64_t antennas, int64_t bins, float* y_re, float* y_im) {
  for (int64_t k = 0; k < bins; ++k) {
    Vec re = {}, im = {};
    for (int64_t i = 0; i < antennas; ++i) {
      Vec a, b, c, d;
      load(a, h_re + (i * bins + k) * kLanes);
      load(b, h_im + (i * bins + k) * kLanes);
      load(c, w_re + i * kLanes);
      load(d, w_im + i * kLanes);
      re += a * c - b * d;
      im += a * d + b * c;
    }
    store(y_re + k * kLanes, re);
    store(y_im + k * kLanes, im);
  }
}

void add_precoded(const Planes& h, const Planes& weights, const Combining& how, float* gain) {
  Planes y;
  y.resize(static_cast<size_t>(how.bins * kLanes));
  for (int64_t antenna = 0; antenna < how.rx_antennas; ++antenna) {
    const int64_t at = antenna * how.tx_antennas * how.bins * kLanes;
    precode(&h.re[at], &h.im[at], weights.re.data(), weights.im.data(), how.tx_antennas, how.bins,
            y.re.data(), y.im.data());
    for (int64_t prb = 0; prb < how.bins / how.bins_per_prb; ++prb) {
      const int64_t from = prb * how.bins_per_prb * kLanes;
      add_power(&y.re[from], &y.im[from], how.bins_per_prb, 1.0f / static_cast<float>(how.bins_per_prb),
                gain + prb * kLanes);
    }
  }
}

}  // namespace

void steering_matrix(const double* tau, int64_t paths, int64_t bins, double spacing, Planes& out) {
  out.resize(static_cast<size_t>(bins * paths));
  const auto first = -static_cast<double>(bins / 2) * spacing;
  for (int64_t m = 0; m < paths; ++m) {
    std::complex<double> z = phasor(first * tau[m]);
    const std::complex<double> step = phasor(spacing * tau[m]);
    for (int64_t k = 0; k < bins; ++k) {
      out.re[k * paths + m] = static_cast<float>(z.real());
      out.im[k * paths + m] = static_cast<float>(z.imag());
      z = {z.real() * step.real() - z.imag() * step.imag(), z.real() * step.imag() + z.imag() * step.real()};
    }
  }
}

void response_fixed(const Planes& steering, const float* a_re, const float* a_im, int64_t paths, int64_t bins,
                    float* h_re, float* h_im) {
  response_fixed_kernel(steering.re.data(), steering.im.data(), a_re, a_im, paths, bins, h_re, h_im);
}

void response_moving(const double* tau, const float* a_re, const float* a_im, int64_t paths, int64_t bins,
                     double spacing, float* h_re, float* h_im) {
  const auto size = static_cast<size_t>(paths * kLanes);
  std::vector<std::complex<double>> anchor(size), jump(size);
  Planes z, step;
  z.resize(size);
  step.resize(size);
  for (size_t i = 0; i < size; ++i) {
    anchor[i] =
        std::complex<double>(a_re[i], a_im[i]) * phasor(-static_cast<double>(bins / 2) * spacing * tau[i]);
    jump[i] = phasor(static_cast<double>(kBinsPerAnchor) * spacing * tau[i]);
    const std::complex<double> one = phasor(spacing * tau[i]);
    step.re[i] = static_cast<float>(one.real());
    step.im[i] = static_cast<float>(one.imag());
  }
  for (int64_t first = 0; first < bins; first += kBinsPerAnchor) {
    for (size_t i = 0; i < size; ++i) {
      z.re[i] = static_cast<float>(anchor[i].real());
      z.im[i] = static_cast<float>(anchor[i].imag());
      const double re = anchor[i].real() * jump[i].real() - anchor[i].imag() * jump[i].imag();
      anchor[i] = {re, anchor[i].real() * jump[i].imag() + anchor[i].imag() * jump[i].real()};
    }
    response_moving_kernel(z.re.data(), z.im.data(), step.re.data(), step.im.data(), paths,
                           std::min(kBinsPerAnchor, bins - first), h_re + first * kLanes,
                           h_im + first * kLanes);
  }
}

void combine_antennas(const Planes& h, const Combining& how, float* gain) {
  const auto per_bin = 1.0f / static_cast<float>(how.bins_per_prb);
  const auto tx = static_cast<float>(how.tx_antennas), rx = static_cast<float>(how.rx_antennas);
  if (!how.serving) {
    add_mean_over_pairs(h, how, per_bin / (tx * rx), gain);
  } else if (how.tx_antennas == 1 || how.precoder == Precoder::kAverage) {
    add_mean_over_pairs(h, how, per_bin / tx, gain);
  } else if (how.precoder == Precoder::kFirst) {
    Planes weights;
    weights.resize(static_cast<size_t>(how.tx_antennas * kLanes));
    std::fill_n(weights.re.begin(), kLanes, 1.0f);
    add_precoded(h, weights, how, gain);
  } else {
    add_precoded(h, wideband_weights(h, how), how, gain);
  }
}

}  // namespace trimtab::radio
