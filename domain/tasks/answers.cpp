#include "domain/tasks/answers.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

namespace trimtab {
namespace {

using Wide = __int128;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

// Index of the brace that closes the one at text[open], or npos.
size_t closing_brace(std::string_view text, size_t open) {
  int depth = 0;
  for (size_t i = open; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '{') {
      ++depth;
    } else if (text[i] == '}' && --depth == 0) {
      return i;
    }
  }
  return std::string_view::npos;
}

Wide greatest_common_divisor(Wide a, Wide b) {
  while (b != 0) {
    const Wide rest = a % b;
    a = b;
    b = rest;
  }
  return a < 0 ? -a : a;
}

std::optional<ExactNumber> in_lowest_terms(Wide numerator, Wide denominator) {
  if (denominator == 0) return std::nullopt;
  if (denominator < 0) {
    numerator = -numerator;
    denominator = -denominator;
  }
  const Wide divisor = greatest_common_divisor(numerator, denominator);
  return ExactNumber{numerator / divisor, denominator / divisor};
}

// Reads forward over one text. Every method leaves `at` unchanged when it finds nothing.
class NumberReader {
 public:
  explicit NumberReader(std::string_view text, size_t start = 0) : text_(text), at_(start) {}
  size_t at() const { return at_; }

  void skip_spaces() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  bool take_minus() { return take("-") || take("\u2212") || take("\u2013"); }

  // Sign, then a mixed number, a fraction or a decimal.
  std::optional<ExactNumber> number() {
    const size_t start = at_;
    const bool negative = take_minus();
    if (!negative) take("+");
    if (at_ > start) skip_spaces();
    take_currency();
    auto value = magnitude();
    if (!value) {
      at_ = start;
      return std::nullopt;
    }
    if (negative) value->numerator = -value->numerator;
    return value;
  }
  void take_currency() {
    static constexpr std::string_view kSigns[] = {"\\$", "$", "\u20ac", "\u00a3"};
    for (const std::string_view sign : kSigns) {
      if (take(sign)) break;
    }
    skip_spaces();
  }

 private:
  std::optional<ExactNumber> magnitude() {
    if (const auto fraction = latex_fraction()) return fraction;
    const auto whole = decimal();
    if (!whole) return std::nullopt;
    const size_t after = at_;
    if (const auto fraction = slash_then_number(*whole)) return fraction;
    if (whole->denominator != 1) return whole;
    skip_spaces();
    auto part = latex_fraction();
    if (!part && at_ > after) {  // "2 1/2"
      const auto top = plain_digits();
      if (top) part = slash_then_number(*top);
    }
    Wide top = 0;
    if (part && part->numerator < part->denominator &&
        !__builtin_mul_overflow(whole->numerator, part->denominator, &top) &&
        !__builtin_add_overflow(top, part->numerator, &top))
      return in_lowest_terms(top, part->denominator);
    at_ = after;
    return whole;
  }
  std::optional<ExactNumber> slash_then_number(const ExactNumber& top) {
    const size_t start = at_;
    skip_spaces();
    if (take("/")) {
      skip_spaces();
      if (const auto bottom = plain_digits(); bottom && top.denominator == 1) {
        if (const auto ratio = in_lowest_terms(top.numerator, bottom->numerator)) return ratio;
      }
    }
    at_ = start;
    return std::nullopt;
  }
  std::optional<ExactNumber> latex_fraction() {
    const size_t start = at_;
    if (take("\\frac") || take("\\dfrac") || take("\\tfrac")) {
      const auto top = fraction_part(), bottom = top ? fraction_part() : std::nullopt;
      if (bottom) {
        if (const auto ratio = in_lowest_terms(top->numerator, bottom->numerator)) return ratio;
      }
    }
    at_ = start;
    return std::nullopt;
  }
  // {12}, {-12} or a single digit.
  std::optional<ExactNumber> fraction_part() {
    skip_spaces();
    if (at_ < text_.size() && is_digit(text_[at_])) return ExactNumber{text_[at_++] - '0', 1};
    if (!take("{")) return std::nullopt;
    skip_spaces();
    const bool negative = take_minus();
    auto value = decimal();
    skip_spaces();
    if (!value || value->denominator != 1 || !take("}")) return std::nullopt;
    if (negative) value->numerator = -value->numerator;
    return value;
  }
  std::optional<ExactNumber> plain_digits() {
    const size_t start = at_;
    Wide value = 0;
    while (at_ < text_.size() && is_digit(text_[at_]) && at_ - start < 30)
      value = value * 10 + (text_[at_++] - '0');
    if (at_ == start || (at_ < text_.size() && is_digit(text_[at_]))) {
      at_ = start;
      return std::nullopt;
    }
    return ExactNumber{value, 1};
  }
  size_t comma_group() const {  // length of ",234" or "{,}234" here, or 0
    const size_t comma = text_.substr(at_, 1) == "," ? 1 : text_.substr(at_, 3) == "{,}" ? 3 : 0;
    if (comma == 0 || at_ + comma + 3 > text_.size()) return 0;
    for (size_t i = 0; i < 3; ++i) {
      if (!is_digit(text_[at_ + comma + i])) return 0;
    }
    const size_t end = at_ + comma + 3;
    return end < text_.size() && is_digit(text_[end]) ? 0 : comma + 3;
  }
  // Digits with commas, then a point and digits: 1,234.50  .5  5.
  std::optional<ExactNumber> decimal() {
    const size_t start = at_;
    std::string digits;
    while (at_ < text_.size() && is_digit(text_[at_])) digits += text_[at_++];
    if (digits.size() >= 1 && digits.size() <= 3) {
      for (size_t length; (length = comma_group()) != 0; at_ += length)
        digits += text_.substr(at_ + length - 3, 3);
    }
    const size_t num_whole = digits.size();
    if (text_.substr(at_, 1) == "." && at_ + 1 < text_.size() && is_digit(text_[at_ + 1])) {
      for (++at_; at_ < text_.size() && is_digit(text_[at_]); ++at_) digits += text_[at_];
    }
    if (digits.empty() || digits.size() > 30) {
      at_ = start;
      return std::nullopt;
    }
    Wide value = 0, scale = 1;
    for (const char digit : digits) value = value * 10 + (digit - '0');
    for (size_t i = num_whole; i < digits.size(); ++i) scale *= 10;
    return in_lowest_terms(value, scale);
  }

  std::string_view text_;
  size_t at_;
};

// Takes off the dressing that does not change a value: math mode, \text{...}, \left, thin spaces, a full
// stop.
std::string undressed(std::string_view text) {
  std::string out(trimmed(text));
  for (const char* word : {"\\left", "\\right", "\\!", "\\displaystyle", "\\(", "\\)", "\\[", "\\]"})
    replace_all(out, word, "");
  for (const char* word : {"\\,", "\\;", "\\:", "\\ ", "~", "\u00a0", "\u202f"}) replace_all(out, word, " ");
  for (const char* word : {"\\text{", "\\textbf{", "\\mathrm{", "\\mbox{", "\\mathbf{"}) {
    for (size_t at; (at = out.find(word)) != std::string::npos;) {
      const size_t open = at + std::string_view(word).size() - 1, close = closing_brace(out, open);
      if (close == std::string::npos) break;
      out = out.substr(0, at) + " " + out.substr(open + 1, close - open - 1) + out.substr(close + 1);
    }
  }
  std::string_view view = trimmed(out);
  for (size_t before = 0; before != view.size();) {
    before = view.size();
    if (view.size() >= 2 && view.front() == '$' && view.back() == '$') view = view.substr(1, view.size() - 2);
    if (!view.empty() && view.back() == '.') view.remove_suffix(1);
    view = trimmed(view);
  }
  const size_t equals = view.find('=');  // "x = 5"
  if (equals != std::string_view::npos && trimmed(view.substr(0, equals)).size() == 1 &&
      is_letter(view.front()))
    view.remove_prefix(equals + 1);
  return std::string(trimmed(view));
}

// "cm", "cm^2", "dollars per hour", "m/s", "m", but not "x" or "or 13".
bool is_unit(std::string_view text) {
  static constexpr std::string_view kSingleLetters = "mgshLNJWVAKCF";
  text = trimmed(text);
  if (text.empty()) return true;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && is_letter(text[end])) ++end;
    if (end == at) return false;
    if (end - at == 1 && kSingleLetters.find(text[at]) == std::string_view::npos) return false;
    at = end;
    if (text.substr(at, 2) == "^2" || text.substr(at, 2) == "^3") at += 2;
    if (text.substr(at, 4) == "^{2}" || text.substr(at, 4) == "^{3}") at += 4;
    const size_t separator = at;
    while (at < text.size() && (is_space(text[at]) || text[at] == '/' || text[at] == '-')) ++at;
    if (at < text.size() && at == separator) return false;
  }
  return true;
}

bool take_percent(NumberReader& reader) {
  NumberReader ahead = reader;
  ahead.skip_spaces();
  if (!ahead.take("%") && !ahead.take("\\%") && !ahead.take("percent")) return false;
  reader = ahead;
  return true;
}

std::string folded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (!is_space(c)) {
      out += c;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  const bool words =
      out.size() > 1 && std::all_of(out.begin(), out.end(), [](char c) { return is_letter(c) || c == ' '; });
  if (words) {
    for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
  }
  std::erase(out, ' ');  // "( 1, 2 )" and "(1,2)", "x + 1" and "x+1"
  return out;
}

// Whether a number may start at text[at]: not inside a word or another number.
bool may_start(std::string_view text, size_t at) {
  if (at == 0) return true;
  const char before = text[at - 1];
  return !is_letter(before) && !is_digit(before) && before != '_' && before != '.' && before != '^';
}
// Whether the minus at text[at] is a sign and not a subtraction or a hyphen: "is -3" but not "8 -3", "n-3",
// "n - 3".
bool is_sign(std::string_view text, size_t at) {
  const auto after = text.find_first_not_of("-\u2212\u2013", at);
  const bool detached = after != std::string_view::npos && is_space(text[after]);
  const size_t minus = at;
  while (at > 0 && text[at - 1] == ' ') --at;
  if (at == 0) return true;
  const char before = text[at - 1];
  if (is_letter(before)) return at < minus && !detached;
  return !is_digit(before) && before != ')' && before != ']' && before != '}';
}

}  // namespace

std::optional<std::string> hash_answer(std::string_view text) {
  const size_t mark = text.rfind("####");
  if (mark == std::string_view::npos) return std::nullopt;
  std::string_view line = text.substr(mark + 4);
  line = trimmed(line.substr(0, line.find('\n')));
  return line.empty() ? std::nullopt : std::optional<std::string>(line);
}

std::optional<std::string> boxed_answer(std::string_view text) {
  size_t best = std::string_view::npos;
  for (const std::string_view word : {"\\boxed", "\\fbox"}) {
    const size_t at = text.rfind(word);
    if (at != std::string_view::npos && (best == std::string_view::npos || at > best)) best = at;
  }
  if (best == std::string_view::npos) return std::nullopt;
  size_t open = best + (text.substr(best, 6) == "\\boxed" ? 6 : 5);
  while (open < text.size() && is_space(text[open])) ++open;
  if (open >= text.size() || text[open] != '{') return std::nullopt;
  const size_t close = closing_brace(text, open);
  if (close == std::string_view::npos) return std::nullopt;
  return std::string(trimmed(text.substr(open + 1, close - open - 1)));
}

std::optional<std::string> last_number(std::string_view text) {
  std::optional<std::string> last;
  for (size_t at = 0; at < text.size();) {
    NumberReader reader(text, at);
    const bool minus = reader.take_minus();
    reader = NumberReader(text, at);
    const bool possible =
        minus ? is_sign(text, at) : may_start(text, at) && !is_space(text[at]) && text[at] != '+';
    if (!possible || !reader.number()) {
      ++at;
      continue;
    }
    const size_t end_of_number = reader.at();
    const size_t end = take_percent(reader) ? reader.at() : end_of_number;
    last = std::string(text.substr(at, end - at));
    at = end;
  }
  return last;
}

std::optional<std::string> find_answer(std::string_view text) {
  if (auto boxed = boxed_answer(text)) return boxed;
  if (auto hash = hash_answer(text)) return hash;
  return last_number(text);
}

std::optional<ExactNumber> parse_number(std::string_view text) {
  const std::string plain = undressed(text);
  NumberReader reader(plain);
  reader.take_currency();
  auto value = reader.number();
  if (!value) return std::nullopt;
  value->percent = take_percent(reader);
  for (const char* degree : {"^\\circ", "^{\\circ}", "\\degree", "\u00b0"}) {
    if (reader.take(degree)) break;
  }
  const std::string_view rest = std::string_view(plain).substr(reader.at());
  const bool unit =
      rest.empty() || ((is_space(rest.front()) || plain[reader.at() - 1] == ' ') && is_unit(rest));
  return unit ? value : std::nullopt;
}

bool answers_equal(std::string_view a, std::string_view b) {
  const auto x = parse_number(a), y = parse_number(b);
  if (!x || !y) return !x && !y && folded(undressed(a)) == folded(undressed(b));
  if (x->numerator == y->numerator && x->denominator == y->denominator) return true;
  if (x->percent == y->percent) return false;
  const ExactNumber &percent = x->percent ? *x : *y, &plain = x->percent ? *y : *x;
  const auto value = in_lowest_terms(percent.numerator, percent.denominator * 100);
  return value && value->numerator == plain.numerator && value->denominator == plain.denominator;
}

}  // namespace trimtab
