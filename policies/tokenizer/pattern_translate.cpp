// Oniguruma's syntax in, PCRE2's out.

#include "core/error.h"
#include "policies/tokenizer/pattern.h"
#include "policies/tokenizer/unicode_classes.h"

namespace trimtab {
namespace {

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) item();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(fmt::format("character {} of the pattern: {}", at_ + 1, what));
  }
  bool follows(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(size_t length) {
    out_ += in_.substr(at_, length);
    at_ += length;
  }

  void item() {
    switch (in_[at_]) {
      case '\\':
        return escape();
      case '[':
        return character_class();
      case '(':
        return group();
      case '{':
        return counted_repeat();
      case '.':
      case '^':
      case '$':
        fail(
            fmt::format("'{}' means different things to Oniguruma and PCRE2 and is not supported", in_[at_]));
      default:
        return copy(1);
    }
  }

  // Outside a class the three sets become a class of their own.
  void escape() {
    const std::string_view set = set_contents();
    if (!set.empty()) {
      out_ += fmt::format("[{}]", set);
    } else if (follows("\\S")) {
      out_ += fmt::format("[^{}]", kSpaceClass);
      at_ += 2;
    } else {
      escaped_character();
    }
  }

  // Consumes \s, \p{L} or \p{N}; empty: something else stands here.
  std::string_view set_contents() {
    for (const auto& [name, contents] : {std::pair<std::string_view, std::string_view>{"\\s", kSpaceClass},
                                         {"\\p{L}", kLetterClass},
                                         {"\\p{N}", kNumberClass}}) {
      if (!follows(name)) continue;
      at_ += name.size();
      return contents;
    }
    return {};
  }

  void escaped_character() {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    constexpr std::string_view kSame = "rnt\\^$.|?*+()[]{}-/'\"!#%&,:;<=>@_`~ ";
    if (c == '\0' || kSame.find(c) == std::string_view::npos)
      fail(R"(of the escapes only \s \S \p{L} \p{N} \r \n \t and escaped punctuation are supported)");
    copy(2);
  }

  void character_class() {
    copy(1);
    if (follows("^")) copy(1);
    if (follows("]")) fail("write a ']' in a class as \\]");
    while (!follows("]")) {
      if (at_ >= in_.size()) fail("a '[' is not closed");
      if (follows("[") || follows("&&")) fail("classes inside classes are not supported; write a '[' as \\[");
      if (const std::string_view set = follows("\\") ? set_contents() : std::string_view(); !set.empty()) {
        out_ += set;
      } else if (follows("\\")) {
        escaped_character();
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  void group() {
    if (follows("(?i:")) return caseless_words();
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!"}) {
      if (follows(opening)) return copy(opening.size());
    }
    if (follows("(?") || follows("(*"))
      fail("of the groups only (...) (?:...) (?i:...) and looking ahead and behind are supported");
    copy(1);
  }

  // Both fold single characters alike ('s' also matches U+017F). Oniguruma also folds pairs (U+00DF matches
  // "ss"): refused.
  void caseless_words() {
    copy(4);
    const size_t end = in_.find(')', at_);
    if (end == std::string_view::npos) fail("a '(' is not closed");
    const std::string_view words = in_.substr(at_, end - at_);
    for (const char c : words) {
      const char lower = static_cast<char>(c | 0x20);
      if (!(lower >= 'a' && lower <= 'z') && c != '\'' && c != '|')
        fail("in (?i:...) only ASCII letters, ' and | are supported");
    }
    for (const char* pair : {"ss", "st", "ff", "fi", "fl"}) {
      if (lower_case(words).find(pair) != std::string::npos)
        fail(fmt::format("(?i:...) with '{}', which also stands for one character, is not supported", pair));
    }
    copy(words.size() + 1);
  }

  static std::string lower_case(std::string_view words) {
    std::string out(words);
    for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    return out;
  }

  // {n} {n,} {n,m}
  void counted_repeat() {
    size_t end = at_ + 1, commas = 0;
    const auto is_digit = [&](size_t i) { return i < in_.size() && in_[i] >= '0' && in_[i] <= '9'; };
    if (!is_digit(end)) fail("a '{' must open a count as {n}, {n,} or {n,m}; write the character as \\{");
    for (; is_digit(end) || (end < in_.size() && in_[end] == ',' && commas == 0); ++end)
      commas += in_[end] == ',';
    if (end >= in_.size() || in_[end] != '}') fail("a count must be {n}, {n,} or {n,m}");
    copy(end + 1 - at_);
    if (follows("+"))
      fail("'+' after a count means different things to Oniguruma and PCRE2 and is not supported");
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string translate_pattern(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace trimtab
