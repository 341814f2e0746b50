// Regular expressions of tokenizer files. They are written for Oniguruma and run by PCRE2, so a pattern is
// translated first: what both read alike passes, what they read differently is spelled out (\s, \p{L},
// \p{N}), the rest is refused.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace trimtab {

// Oniguruma to PCRE2. \s becomes the 25 white-space characters (PCRE2's has U+180E too); \p{L} and \p{N} get
// what Unicode 15 and 16 added, which Hugging Face tokenizers 0.23 know and PCRE2 10.42 does not. DataError
// says what is not supported, and where.
std::string translate_pattern(std::string_view pattern);

// Half-open, in bytes.
struct TextRange {
  size_t begin = 0, end = 0;
};

class Pattern {
 public:
  // `pcre2` in PCRE2's syntax; DataError when it does not compile or can match nothing at all (then it splits
  // nothing).
  explicit Pattern(const std::string& pcre2);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // The first match in `text` (valid UTF-8) at or after `from`; false: none. DataError when the pattern needs
  // more than PCRE2's limit of steps on this text.
  bool find(std::string_view text, size_t from, TextRange& match) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace trimtab
