// Cutting a text into the words that BPE works on: a list of steps, each applied to every piece the ones
// before it left.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policies/tokenizer/pattern.h"

namespace trimtab {

// GPT-2's pattern, which the pre-tokenizer ByteLevel has built in.
inline constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  // Every match of `pattern` (Oniguruma's syntax) becomes a piece, and so does what lies between matches
  // ("Isolated").
  void add_split(std::string_view pattern);
  // Numbers become pieces, digit by digit or each run of digits ("Digits").
  void add_digits(bool individual);
  // A space before every piece that has none at its front ("add_prefix_space").
  void add_prefix_space();

  // Words of one text: views of the text itself or of `made`.
  struct Words {
    std::vector<std::string_view> views;
    std::deque<std::string> made;
  };
  // Words of `text` (valid UTF-8); an empty text has none.
  void split(std::string_view text, Words& words) const;

 private:
  std::vector<std::optional<Pattern>> steps_;  // nothing: a space in front
};

}  // namespace trimtab
