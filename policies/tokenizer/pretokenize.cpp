#include "policies/tokenizer/pretokenize.h"

#include <fmt/format.h>

#include "policies/tokenizer/unicode_classes.h"

namespace trimtab {
namespace {

void split_at_matches(const Pattern& pattern, std::string_view text, std::vector<std::string_view>& pieces) {
  TextRange match;
  size_t done = 0;
  while (done < text.size() && pattern.find(text, done, match)) {
    if (match.begin > done) pieces.push_back(text.substr(done, match.begin - done));
    pieces.push_back(text.substr(match.begin, match.end - match.begin));
    done = match.end;
  }
  if (done < text.size()) pieces.push_back(text.substr(done));
}

}  // namespace

void PreTokenizer::add_split(std::string_view pattern) {
  steps_.emplace_back(Pattern(translate_pattern(pattern)));
}

void PreTokenizer::add_digits(bool individual) {
  steps_.emplace_back(
      Pattern(fmt::format("[{}{}]{}", kNumberClass, kMoreDigitsClass, individual ? "" : "+")));
}

void PreTokenizer::add_prefix_space() { steps_.emplace_back(std::nullopt); }

void PreTokenizer::split(std::string_view text, Words& words) const {
  words.views.clear();
  words.made.clear();
  if (!text.empty()) words.views.push_back(text);
  for (const std::optional<Pattern>& pattern : steps_) {
    std::vector<std::string_view> pieces;
    for (const std::string_view piece : words.views) {
      if (pattern) {
        split_at_matches(*pattern, piece, pieces);
      } else {
        pieces.push_back(piece.starts_with(' ')
                             ? piece
                             : std::string_view(words.made.emplace_back(" " + std::string(piece))));
      }
    }
    words.views = std::move(pieces);
  }
}

}  // namespace trimtab
