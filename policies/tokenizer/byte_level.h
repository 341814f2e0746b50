// GPT-2's alphabet: every byte as a printable character, so that a vocabulary of byte strings can be written
// as text. Bytes 21-7E, A1-AC and AE-FF are the characters of that number, the others in order U+0100,
// U+0101, ...
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace trimtab {

// The character of a byte, as UTF-8.
std::string byte_level_symbol(uint8_t byte);
// The bytes a token stands for; nothing when it has a character outside the alphabet.
std::optional<std::string> byte_level_bytes(std::string_view token);

}  // namespace trimtab
