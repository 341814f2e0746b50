// Nested expressions modulo 10, fully parenthesised: "((3+4)*(5-1))=". Each step reduces the leftmost
// innermost pair and, in verbose text, writes the whole expression that is left. Tier: number of operations.
#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

int apply(char operation, int a, int b) {
  if (operation == '+') return (a + b) % 10;
  if (operation == '-') return (a - b + 10) % 10;
  return a * b % 10;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string draw_tree(Draws& draws, int num_operations) {
  if (num_operations == 0) return std::to_string(draws.below(10));
  const int left = static_cast<int>(draws.below(static_cast<uint32_t>(num_operations)));
  const char operation = "+-*"[draws.below(3)];
  const std::string a = draw_tree(draws, left), b = draw_tree(draws, num_operations - 1 - left);
  return fmt::format("({}{}{})", a, operation, b);
}

// Value of the expression that starts at text[at]; `at` moves behind it.
int evaluate(std::string_view text, size_t& at) {
  if (is_digit(text.at(at))) return text[at++] - '0';
  ++at;  // (
  const int a = evaluate(text, at);
  const char operation = text.at(at++);
  const int b = evaluate(text, at);
  ++at;  // )
  return apply(operation, a, b);
}

// Where the leftmost "(d?d)" starts, or npos.
size_t innermost(const std::string& text) {
  for (size_t at = 0; at + 4 < text.size(); ++at) {
    if (text[at] == '(' && is_digit(text[at + 1]) && is_digit(text[at + 3]) && text[at + 4] == ')') return at;
  }
  return std::string::npos;
}

struct ExpressionOptions : SuiteOptions {
  ExpressionOptions() { tiers = {2, 3, 4, 5}; }
  void describe(Fields& f) { describe_common(f, 1, 12); }
};

class Expression final : public Suite {
 public:
  using Options = ExpressionOptions;
  explicit Expression(const Options& options) : Suite("expression", options, 1) {}

  std::string alphabet() const override {
    return sorted_alphabet("0123456789+-*()abcdefghijkl" + std::string(kCorpusCharacters));
  }
  size_t max_prompt_length() const override { return 4 * static_cast<size_t>(highest_tier()) + 2; }
  size_t max_reply_length() const override {
    return static_cast<size_t>(highest_tier()) * max_step_length(3, 1, max_prompt_length()) + 3;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override { return draw_tree(draws, tier) + "="; }
  std::string solve(std::string_view prompt) const override {
    size_t at = 0;
    return std::to_string(evaluate(prompt, at));
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    std::string text(prompt.substr(0, prompt.size() - 1));
    const auto reduced = [&](size_t at, const std::string& result) {
      return text.substr(0, at) + result + text.substr(at + 5);
    };
    size_t at = innermost(text);
    for (int i = 0; at != std::string::npos; ++i, at = innermost(text)) {
      const int right = apply(text[at + 2], text[at + 1] - '0', text[at + 3] - '0');
      const std::string result =
          scribe.step(letter_label(i), text.substr(at + 1, 3), std::to_string(right), slip_number,
                      [&](const std::string& r) { return reduced(at, r); });
      text = reduced(at, result);
    }
    return text;
  }
  Example fact(Draws& draws) const override {
    const int a = static_cast<int>(draws.below(10)), b = static_cast<int>(draws.below(10));
    const char operation = "+-*"[draws.below(3)];
    // Without the parentheses of a prompt, so that no fact is a held-out problem.
    return {fmt::format("{}{}{}=", a, operation, b), fmt::format("{};", apply(operation, a, b)), 0, 1};
  }
};

TT_REGISTER(SuiteEntry, expression,
            (suite_entry<Expression>("expression", "nested expressions modulo 10, reduced pair by pair")));

}  // namespace
}  // namespace trimtab
