#include "policies/tokenizer/byte_level.h"

#include <array>

#include "policies/tokenizer/unicode.h"

namespace trimtab {
namespace {

bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

constexpr size_t kSymbols = 0x144;  // code points used: 0 to U+0143

struct Alphabet {
  Alphabet() {
    bytes.fill(-1);
    uint32_t further = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      symbols[byte] = stands_for_itself(byte) ? static_cast<uint32_t>(byte) : further++;
      bytes[symbols[byte]] = static_cast<int16_t>(byte);
    }
  }
  std::array<uint32_t, 256> symbols;
  std::array<int16_t, kSymbols> bytes;  // -1: no symbol
};

const Alphabet& alphabet() {
  static const Alphabet built;
  return built;
}

}  // namespace

std::string byte_level_symbol(uint8_t byte) {
  std::string symbol;
  append_code_point(alphabet().symbols[byte], symbol);
  return symbol;
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const CodePoint point = first_code_point(token);
    const int16_t byte = point.value < kSymbols ? alphabet().bytes[point.value] : int16_t{-1};
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
    token.remove_prefix(point.length);
  }
  return bytes;
}

}  // namespace trimtab
