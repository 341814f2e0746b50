// Addition and long multiplication as taught at school: "347+582=", "347*58=". Every step is one column, so
// single-digit facts are all a solver has to know: "a7+2+0=09" is a column sum with its carry, "a7*8+0=56" a
// digit product with its carry. Tier: digits of the first number; the second has as many for +, half as many
// (rounded up) for *.
#include <algorithm>
#include <cstdlib>

#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr std::string_view kDigits = "0123456789";

std::string without_leading_zeros(std::string digits) {
  const size_t first = std::min(digits.find_first_not_of('0'), digits.size() - 1);
  return digits.substr(first);
}

std::string slip_digit(const std::string& right, Draws& draws) {
  return slip_character(right, kDigits, draws);
}

// Works columns from the least to the most significant, carrying. Steps of one reply are labelled in a row.
class Columns {
 public:
  explicit Columns(Scribe& scribe) : scribe_(scribe) {}

  std::string add(std::string a, std::string b) {
    const size_t width = std::max(a.size(), b.size());
    a.insert(0, width - a.size(), '0');
    b.insert(0, width - b.size(), '0');
    return run(width, [&](size_t column, int carry) -> Column {
      const int x = a[column] - '0', y = b[column] - '0';
      return {fmt::format("{}+{}+{}", x, y, carry), x + y + carry,
              a.substr(0, column) + "+" + b.substr(0, column)};
    });
  }
  std::string multiply_by_digit(const std::string& a, int digit) {
    return run(a.size(), [&](size_t column, int carry) -> Column {
      const int x = a[column] - '0';
      return {fmt::format("{}*{}+{}", x, digit, carry), x * digit + carry,
              fmt::format("{}*{}", a.substr(0, column), digit)};
    });
  }

 private:
  struct Column {
    std::string expression;
    int right;
    std::string left_over;
  };
  template <class Work>
  std::string run(size_t width, Work work) {
    std::string digits;
    int carry = 0;
    for (size_t column = width; column-- > 0;) {
      const Column now = work(column, carry);
      const std::string result = scribe_.step(
          letter_label(num_steps_++), now.expression, fmt::format("{:02}", now.right), slip_digit,
          [&](const std::string& r) { return fmt::format("{}c{}r{}{}", now.left_over, r[0], r[1], digits); });
      carry = result[0] - '0';
      digits.insert(0, 1, result[1]);
    }
    return without_leading_zeros(std::to_string(carry) + digits);
  }
  Scribe& scribe_;
  int num_steps_ = 0;
};

std::string number_of_digits(Draws& draws, int num_digits) {
  std::string out;
  for (int i = 0; i < num_digits; ++i) {
    const bool leading = i == 0 && num_digits > 1;
    out += static_cast<char>('0' + (leading ? 1 + draws.below(9) : draws.below(10)));
  }
  return out;
}

struct MultiDigitOptions : SuiteOptions {
  std::string operations = "both";
  MultiDigitOptions() { tiers = {1, 2, 3}; }
  void describe(Fields& f) {
    describe_common(f, 1, 6);
    f.choice("operations", operations, {"add", "multiply", "both"}, "what is asked for");
  }
};

class MultiDigit final : public Suite {
 public:
  using Options = MultiDigitOptions;
  explicit MultiDigit(const Options& options)
      : Suite("multi_digit", options, 1), operations_(options.operations) {}

  std::string alphabet() const override {
    return sorted_alphabet("0123456789+*abcdefghijklmnopqrstuvwxyz" + std::string(kCorpusCharacters));
  }
  size_t max_prompt_length() const override { return 2 * static_cast<size_t>(highest_tier()) + 2; }
  size_t max_reply_length() const override {
    const auto t = static_cast<size_t>(highest_tier()), rows = (t + 1) / 2, width = t + rows + 2;
    return (t * rows + rows * width) * max_step_length(5, 2, 3 * width + 6) + width + 2;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    const bool add = operations_ == "both" ? draws.below(2) == 0 : operations_ == "add";
    const std::string a = number_of_digits(draws, tier);
    return a + (add ? "+" : "*") + number_of_digits(draws, add ? tier : (tier + 1) / 2) + "=";
  }
  std::string solve(std::string_view prompt) const override {
    const Question q = parse(prompt);
    const int64_t a = std::stoll(q.a), b = std::stoll(q.b);
    return std::to_string(q.add ? a + b : a * b);
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    const Question q = parse(prompt);
    Columns columns(scribe);
    if (q.add) return columns.add(q.a, q.b);
    std::string total;
    for (size_t i = 0; i < q.b.size(); ++i) {
      std::string row = columns.multiply_by_digit(q.a, q.b[q.b.size() - 1 - i] - '0');
      row.append(i, '0');
      total = i == 0 ? row : columns.add(total, row);
    }
    return total;
  }
  Example fact(Draws& draws) const override {
    const auto a = draws.below(10), b = draws.below(10), carry = draws.below(9);
    const bool add = operations_ == "both" ? draws.below(2) == 0 : operations_ == "add";
    return {fmt::format("{}{}{}+{}=", a, add ? '+' : '*', b, carry),
            fmt::format("{:02};", (add ? a + b : a * b) + carry), 0, 2};
  }

 private:
  struct Question {
    std::string a, b;
    bool add;
  };
  static Question parse(std::string_view prompt) {
    const size_t at = prompt.find_first_of("+*");
    return {std::string(prompt.substr(0, at)), std::string(prompt.substr(at + 1, prompt.size() - at - 2)),
            prompt[at] == '+'};
  }
  std::string operations_;
};

TT_REGISTER(SuiteEntry, multi_digit,
            (suite_entry<MultiDigit>("multi_digit", "addition and long multiplication, column by column")));

}  // namespace
}  // namespace trimtab
