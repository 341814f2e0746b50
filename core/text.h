// Text: small helpers on words and bytes that several readers share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace trimtab {

bool is_utf8(
    std::string_view bytes);  // well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates
std::vector<std::string> split(std::string_view text, char separator);  // "a.b" -> {"a", "b"}; "" -> {}
std::string join(const std::vector<std::string>& words, std::string_view separator);

}  // namespace trimtab
