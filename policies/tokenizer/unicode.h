// Unicode as the Hugging Face tokenizers see it: UTF-8, white space, NFC.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trimtab {

// The code point at the front of `text` (not empty, valid UTF-8) and the bytes it takes.
struct CodePoint {
  uint32_t value = 0;
  size_t length = 0;
};
CodePoint first_code_point(std::string_view text);
CodePoint last_code_point(std::string_view text);
void append_code_point(uint32_t value, std::string& text);
// "U+00E9"
std::string code_point_name(uint32_t value);

// Ill-formed bytes as U+FFFD, one per maximal part (Unicode 15, section 3.9, as in Python and WHATWG).
std::string replace_ill_formed(std::string_view bytes);

// White_Space of Unicode, 25 code points: U+0085 is one, U+180E and U+200B are not.
bool is_white_space(uint32_t code_point);

// Canonical composition (Unicode Standard Annex 15) of valid UTF-8, as Hugging Face tokenizers 0.23 do it:
// marks that are newer than their tables stay where they are.
std::string normalise_nfc(std::string_view text);

}  // namespace trimtab
