// Chained arithmetic modulo 10, left to right: the prompt "6a+4b*7c-4=" asks for ((6+4)*7)-4 with every value
// modulo 10; letters label the steps. A guess is right one time in ten. Tier: number of operations.
#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

struct Term {
  char operation;
  int operand;
};
struct Chain {
  int start;
  std::vector<Term> terms;
};

int apply(char operation, int a, int b) {
  if (operation == '+') return (a + b) % 10;
  if (operation == '-') return (a - b + 10) % 10;
  return a * b % 10;
}

std::string tail(const Chain& chain, size_t first) {
  std::string out;
  for (size_t i = first; i < chain.terms.size(); ++i)
    out += fmt::format("{}{}{}", letter_label(static_cast<int>(i)), chain.terms[i].operation,
                       chain.terms[i].operand);
  return out;
}

Chain parse(std::string_view prompt) {
  Chain chain{prompt.at(0) - '0', {}};
  for (size_t at = 1; at + 2 < prompt.size(); at += 3)
    chain.terms.push_back({prompt[at + 1], prompt[at + 2] - '0'});
  return chain;
}

struct ChainedArithmeticOptions : SuiteOptions {
  ChainedArithmeticOptions() { tiers = {2, 3, 4, 5}; }
  void describe(Fields& f) { describe_common(f, 1, 10); }
};

class ChainedArithmetic final : public Suite {
 public:
  using Options = ChainedArithmeticOptions;
  explicit ChainedArithmetic(const Options& options) : Suite("chained_arithmetic", options, 1) {}

  std::string alphabet() const override {
    return sorted_alphabet("0123456789+-*abcdefghij" + std::string(kCorpusCharacters));
  }
  size_t max_prompt_length() const override { return 2 + 3 * static_cast<size_t>(highest_tier()); }
  size_t max_reply_length() const override {
    const auto n = static_cast<size_t>(highest_tier());
    return n * max_step_length(3, 1, 1 + 3 * n) + 3;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    Chain chain{static_cast<int>(draws.below(10)), {}};
    for (int i = 0; i < tier; ++i)
      chain.terms.push_back({"+-*"[draws.below(3)], static_cast<int>(draws.below(10))});
    return fmt::format("{}{}=", chain.start, tail(chain, 0));
  }
  std::string solve(std::string_view prompt) const override {
    const Chain chain = parse(prompt);
    int value = chain.start;
    for (const Term& term : chain.terms) value = apply(term.operation, value, term.operand);
    return std::to_string(value);
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    const Chain chain = parse(prompt);
    std::string value = std::to_string(chain.start);
    for (size_t i = 0; i < chain.terms.size(); ++i) {
      const auto [operation, operand] = chain.terms[i];
      value = scribe.step(letter_label(static_cast<int>(i)), fmt::format("{}{}{}", value, operation, operand),
                          std::to_string(apply(operation, value[0] - '0', operand)), slip_number,
                          [&](const std::string& result) { return result + tail(chain, i + 1); });
    }
    return value;
  }
  Example fact(Draws& draws) const override {
    const int a = static_cast<int>(draws.below(10)), b = static_cast<int>(draws.below(10));
    const char operation = "+-*"[draws.below(3)];
    return {fmt::format("{}{}{}=", a, operation, b), fmt::format("{};", apply(operation, a, b)), 0, 1};
  }
};

TT_REGISTER(SuiteEntry, chained_arithmetic,
            (suite_entry<ChainedArithmetic>("chained_arithmetic",
                                            "chains of +, -, * modulo 10, evaluated left to right")));

}  // namespace
}  // namespace trimtab
