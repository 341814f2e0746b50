// Final answers in free text: finding them and comparing them, for data sets such as GSM8K and MATH.
//
// Comparison is exact: numbers are compared as fractions of whole numbers, never as floating point, so 0.333
// is not 1/3.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace trimtab {

// What follows the last "####" on its line, without spaces at its ends (GSM8K). Nothing there: none.
std::optional<std::string> hash_answer(std::string_view text);
// The contents of the last \boxed{...} or \fbox{...}, braces inside matched ("\{" and "\}" do not count). One
// that is never closed: none, because the reply was cut off.
std::optional<std::string> boxed_answer(std::string_view text);
// The last number as it stands in the text, with sign, commas, decimals, fraction and percent sign:
// "-1,234.5", "3/4", "\frac{3}{4}", "50%". A minus after a digit or closing bracket, or close to a letter, is
// a subtraction. Digits inside words ("x2") are not numbers.
std::optional<std::string> last_number(std::string_view text);
// The first of these that the text has: boxed, hash, last number.
std::optional<std::string> find_answer(std::string_view text);

// A number as a fraction in lowest terms; denominator > 0. Up to 30 digits each.
struct ExactNumber {
  __int128 numerator = 0, denominator = 1;
  bool percent = false;  // a % was written; the value is not divided by 100
  bool operator==(const ExactNumber&) const = default;
};
// The whole of `text` as one number, or none. Accepted around it: "$...$", \( \), \text{}, currency signs in
// front, "x =" in front, a full stop, "\%" or "percent", a degree sign, a unit after a space or in \text{} (a
// word of two letters or more, with powers: "12 cm^2", "5 dollars per hour"; or one of the letters m g s h L
// N J W V A K C F). Units are dropped, not compared. Forms: 1,234  1{,}234  -3  - 3  +3  .5  5.  3/4
// -\frac{3}{4}  \dfrac34  2 1/2  2\frac{1}{2}. Not: exponents, roots, expressions, "1,23" (commas must group
// by three), a denominator of 0.
std::optional<ExactNumber> parse_number(std::string_view text);

// True when both are the same number, or the same text once LaTeX dressing (\text, \left, \right, $, spaces,
// a full stop) is taken off; words of two letters or more compare without case. A percentage equals another
// with the same figure; a percentage and a plain number are equal when the figures are (50% = 50) or when the
// value is (50% = 0.5 = 1/2): data sets write either.
bool answers_equal(std::string_view a, std::string_view b);

}  // namespace trimtab
