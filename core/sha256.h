// SHA-256 (FIPS 180-4, sections 4.1.2, 5.3.3 and 6.2), for hashes that users compare with their own.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace trimtab {

class Sha256 {
 public:
  void update(std::string_view bytes);
  std::string hex_digest();  // ends it: 64 hex digits

 private:
  void compress();

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  size_t filled_ = 0;
  uint64_t length_ = 0;
};

}  // namespace trimtab
