// IEEE 754 binary16 as bits, to and from float, without the instructions that a baseline processor lacks.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace trimtab {

constexpr float kLargestHalf = 65504;

// Branch-free, so that loops over it become vector code.
inline float half_to_float(uint16_t half) {
  const uint32_t size = uint32_t{half & 0x7fffu} << 13;
  const uint32_t special = (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;   // infinities and NaN
  const float scaled = std::bit_cast<float>(size) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | uint32_t{half & 0x8000u} << 16);
}

// To nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_half(float x) {
  const float size = std::fabs(x);
  const uint32_t sign = std::bit_cast<uint32_t>(x) >> 16 & 0x8000, bits = std::bit_cast<uint32_t>(size);
  uint32_t out = 0x7e00;
  if (size >= 65520) out = 0x7c00;
  else if (size >= 0x1p-14f) out = ((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10);
  else if (size >= 0) out = std::bit_cast<uint32_t>(size + 0.5f) - 0x3f000000u;   // the sum's last place is 2^-24
  return static_cast<uint16_t>(sign | out);
}

}  // namespace trimtab
