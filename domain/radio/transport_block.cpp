// Transport block size, TS 38.214 5.1.3.2, and its segmentation into code blocks, TS 38.212 5.2.2.
//
// Everything is exact: the code rate is a multiple of 0.5 / 1024 and the numbers of bits are integers, so the
// intermediate values fit a double without rounding; where the specification rounds, ties go up.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {
namespace {

// Table 5.1.3.2-1: sizes up to 3824 bits.
constexpr std::array<int16_t, 93> kSmallSizes{
    24,   32,   40,   48,   56,   64,   72,   80,   88,   96,   104,  112,  120,  128,  136,  144,
    152,  160,  168,  176,  184,  192,  208,  224,  240,  256,  272,  288,  304,  320,  336,  352,
    368,  384,  408,  432,  456,  480,  504,  528,  552,  576,  608,  640,  672,  704,  736,  768,
    808,  848,  888,  928,  984,  1032, 1064, 1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352, 1416,
    1480, 1544, 1608, 1672, 1736, 1800, 1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472, 2536,
    2600, 2664, 2728, 2792, 2856, 2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824};

int64_t floor_log2(double x) { return std::ilogb(x); }
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t small_size(double num_info) {
  const int64_t n = num_info < 1 ? 3 : std::max<int64_t>(3, floor_log2(num_info) - 6);
  const int64_t step = int64_t{1} << n;
  const int64_t quantised = std::max<int64_t>(24, step * static_cast<int64_t>(std::floor(num_info / step)));
  return *std::lower_bound(kSmallSizes.begin(), kSmallSizes.end(), quantised);
}

// Step 4: N' and the number of code blocks it is cut into.
void large_size(double num_info, double rate1024, TransportBlock& tb) {
  const int64_t step = int64_t{1} << (floor_log2(num_info - 24) - 5);
  const int64_t rounded = static_cast<int64_t>(std::floor((num_info - 24) / step + 0.5));
  const int64_t quantised = std::max<int64_t>(3840, step * rounded);
  if (rate1024 <= 256) {
    tb.num_code_blocks = divide_up(quantised + 24, 3816);
  } else if (quantised > 8424) {
    tb.num_code_blocks = divide_up(quantised + 24, 8424);
  }
  tb.size = 8 * tb.num_code_blocks * divide_up(quantised + 24, 8 * tb.num_code_blocks) - 24;
}

}  // namespace

TransportBlock transport_block(Mcs mcs, int64_t num_coded_bits) {
  TT_CHECK_GE(num_coded_bits, 0);
  const double num_info = static_cast<double>(num_coded_bits) * mcs.rate1024 / 1024.0;
  TransportBlock tb;
  tb.num_code_blocks = 1;
  if (num_info <= 3824) {
    tb.size = small_size(num_info);
  } else {
    large_size(num_info, mcs.rate1024, tb);
  }
  tb.tb_crc = tb.size > 3824 ? 24 : 16;
  tb.cb_crc = tb.num_code_blocks > 1 ? 24 : 0;
  tb.code_block_size = (tb.size + tb.tb_crc) / tb.num_code_blocks + tb.cb_crc;
  return tb;
}

TransportBlock transport_block(Mcs mcs, int64_t num_prb, int64_t num_symbols, int64_t num_dmrs_per_prb,
                               int64_t num_layers) {
  const int64_t re_per_prb = std::min<int64_t>(156, 12 * num_symbols - num_dmrs_per_prb);
  TT_CHECK_GE(re_per_prb, 0);
  return transport_block(mcs, re_per_prb * num_prb * mcs.modulation_order * num_layers);
}

}  // namespace trimtab::radio
