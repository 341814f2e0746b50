// Conversion between base 10 and bases 2, 8 and 16, with the base as a suffix (b, o, d, h): "37d>b=",
// "25h>d=". To another base by repeated division ("a37/2=18r1"), from it by Horner's rule ("a0*16+2=2").
// Tier: decimal digits of the number
// (one digit would leave a split without problems).
#include <algorithm>

#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr std::string_view kDigits = "0123456789ABCDEF";

char suffix_of(int base) { return base == 2 ? 'b' : base == 8 ? 'o' : base == 16 ? 'h' : 'd'; }
int base_of(char suffix) { return suffix == 'b' ? 2 : suffix == 'o' ? 8 : suffix == 'h' ? 16 : 10; }

std::string in_base(int64_t value, int base) {
  std::string out;
  do out.insert(0, 1, kDigits[static_cast<size_t>(value % base)]);
  while ((value /= base) > 0);
  return out;
}

struct Conversion {
  std::string digits;
  int from, to;
};

Conversion parse(std::string_view prompt) {  // "37d>b="
  const size_t n = prompt.size();
  return {std::string(prompt.substr(0, n - 4)), base_of(prompt[n - 4]), base_of(prompt[n - 2])};
}

struct Division {
  int64_t quotient;
  char digit;
  explicit Division(const std::string& text) : quotient(std::stoll(text)), digit(text.back()) {}
  Division(int64_t value, int base)
      : quotient(value / base), digit(kDigits[static_cast<size_t>(value % base)]) {}
  std::string text() const { return fmt::format("{}r{}", quotient, digit); }
};

// The quotient one too small, or another remainder: the division still ends.
std::string slip_division(const std::string& right, int base, Draws& draws) {
  Division wrong(right);
  if (wrong.quotient > 0 && draws.below(2) == 0) {
    --wrong.quotient;
  } else {
    const std::string_view digits = kDigits.substr(0, static_cast<size_t>(base));
    wrong.digit = slip_character({wrong.digit}, digits, draws)[0];
  }
  return wrong.text();
}

std::string divide_down(int64_t value, int base, Scribe& scribe) {
  std::string digits;
  for (int i = 0; value > 0; ++i) {
    const std::string result = scribe.step(
        letter_label(i), fmt::format("{}/{}", value, base), Division(value, base).text(),
        [&](const std::string& right, Draws& draws) { return slip_division(right, base, draws); },
        [&](const std::string& r) {
          return fmt::format("{}>{}{}", Division(r).quotient, Division(r).digit, digits);
        });
    value = Division(result).quotient;
    digits.insert(0, 1, Division(result).digit);
  }
  const size_t first = digits.find_first_not_of('0');
  return first == std::string::npos ? "0" : digits.substr(first);
}

std::string horner(const std::string& digits, int base, Scribe& scribe) {
  std::string value = "0";
  for (size_t i = 0; i < digits.size(); ++i) {
    const int64_t right = std::stoll(value) * base + static_cast<int64_t>(kDigits.find(digits[i]));
    value = scribe.step(letter_label(static_cast<int>(i)), fmt::format("{}*{}+{}", value, base, digits[i]),
                        std::to_string(right), slip_number,
                        [&](const std::string& r) { return r + ">" + digits.substr(i + 1); });
  }
  return value;
}

struct BaseConversionOptions : SuiteOptions {
  std::vector<int64_t> bases = {2, 8, 16};
  BaseConversionOptions() { tiers = {2, 3}; }
  void describe(Fields& f) {
    describe_common(f, 2, 4);
    f.integers("bases", bases, {.low = 2, .high = 16, .doc = "the bases beside 10: 2, 8, 16"});
  }
  void validate() const {
    SuiteOptions::validate();
    const auto known = [](int64_t base) { return base == 2 || base == 8 || base == 16; };
    if (bases.empty() || !std::all_of(bases.begin(), bases.end(), known))
      throw ConfigError("bases must be some of 2, 8, 16");
  }
};

class BaseConversion final : public Suite {
 public:
  using Options = BaseConversionOptions;
  explicit BaseConversion(const Options& options)
      : Suite("base_conversion", options, 2), bases_(options.bases) {
    options.validate();
  }

  std::string alphabet() const override {
    return sorted_alphabet("bodh>/*+r=abcdefghijklmn" + std::string(kDigits) +
                           std::string(kCorpusCharacters));
  }
  size_t max_prompt_length() const override { return std::max(num_digits(2), num_digits(10)) + 4; }
  size_t max_reply_length() const override {
    size_t longest = 0;
    for (const int64_t base : bases_) {
      const size_t steps = num_digits(static_cast<int>(base));
      const size_t number =
          std::max(steps * (base == 16 ? 2 : 1), num_digits(10));  // slips make numbers grow
      longest =
          std::max(longest, steps * max_step_length(number + 5, number + 2, number + steps + 1) + number + 2);
    }
    return longest;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    uint32_t low = 1;
    for (int i = 1; i < tier; ++i) low *= 10;
    const int64_t value = low + draws.below(9 * low);
    const int base = static_cast<int>(bases_[draws.below(static_cast<uint32_t>(bases_.size()))]);
    const bool to = draws.below(2) == 0;
    return to ? fmt::format("{}d>{}=", value, suffix_of(base))
              : fmt::format("{}{}>d=", in_base(value, base), suffix_of(base));
  }
  std::string solve(std::string_view prompt) const override {
    const Conversion c = parse(prompt);
    return in_base(std::stoll(c.digits, nullptr, c.from), c.to);
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    const Conversion c = parse(prompt);
    return c.from == 10 ? divide_down(std::stoll(c.digits), c.to, scribe) : horner(c.digits, c.from, scribe);
  }
  Example fact(Draws& draws) const override {
    const int base = static_cast<int>(bases_[draws.below(static_cast<uint32_t>(bases_.size()))]);
    const int64_t value = draws.below(100);
    const std::string result = Division(value, base).text();
    return {fmt::format("{}/{}=", value, base), result + ";", 0, result.size()};
  }

 private:
  // Of the largest number of the hardest tier.
  size_t num_digits(int base) const {
    return in_base(std::stoll(std::string(static_cast<size_t>(highest_tier()), '9')), base).size();
  }
  std::vector<int64_t> bases_;
};

TT_REGISTER(SuiteEntry, base_conversion,
            (suite_entry<BaseConversion>("base_conversion",
                                         "numbers between base 10 and bases 2, 8 and 16, digit by digit")));

}  // namespace
}  // namespace trimtab
