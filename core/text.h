// Text: small helpers on words and bytes that several readers share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trimtab {

bool is_utf8(
    std::string_view bytes);  // well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates
uint32_t fnv1a(std::string_view bytes);  // FNV-1a, 32 bits: a name as a word of a random counter
std::vector<std::string> split(std::string_view text, char separator);  // "a.b" -> {"a", "b"}; "" -> {}
std::string indented(const std::string& lines);  // two spaces before every line; empty lines are left out
std::string join(const std::vector<std::string>& words, std::string_view separator);

}  // namespace trimtab
