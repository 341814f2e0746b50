#include "domain/tasks/corpus.h"

#include <cmath>

#include "core/error.h"

namespace trimtab {
namespace {

// A text is mostly verbose or mostly not: shares of verbose and of short steps, the rest is terse.
constexpr double kMostlyVerbose[2] = {0.9, 0.07}, kMostlyShort[2] = {0.1, 0.7}, kAllShort[2] = {0, 1};
// Equally long, so that a reply's length is certain whatever its words.
constexpr std::string_view kFreeWords[] = {"so", "ok", "on"};

}  // namespace

void CorpusOptions::describe(Fields& f) {
  f.number("slip", slip, {.low = 0, .high = 1, .doc = "chance that a step's result is first written wrong"});
  f.number("repair", repair, {.low = 0, .high = 1, .doc = "chance that one re-check repairs a wrong result"});
  f.number("verbose", verbose, {.low = 0, .high = 1, .doc = "share of mostly verbose texts"});
  f.flag("free_wording", free_wording, "all steps are short, and each goes on with so, ok or on, drawn: words that nothing decides; verbose is not used");
}

double CorpusOptions::clean_probability(int num_steps) const {
  const double kept = 1 - repair, after_rechecks = (2 * kept + kept * kept) / 3;
  const auto survives = [&](double verbose_share) {
    const double error = slip * (verbose_share * after_rechecks + 1 - verbose_share);
    return std::pow(1 - error, num_steps);
  };
  if (free_wording) return survives(kAllShort[0]);
  return verbose * survives(kMostlyVerbose[0]) + (1 - verbose) * survives(kMostlyShort[0]);
}

Scribe::Scribe(const CorpusOptions& options, Draws draws)
    : slip_(options.slip), repair_(options.repair), free_wording_(options.free_wording), draws_(draws) {
  const double* shares = draws_.uniform() < options.verbose ? kMostlyVerbose : kMostlyShort;
  if (free_wording_) shares = kAllShort;
  verbose_share_ = shares[0];
  short_share_ = shares[1];
}

void Scribe::recheck(const std::string& expression, const std::string& right, std::string& result) {
  const std::string claim = "?" + expression + "=" + result;
  if (result != right && draws_.uniform() < repair_) {
    result = right;
    text_ += "?" + expression + "=" + right + " no,so " + right;
  } else {
    text_ += claim + " ok";
  }
}

std::string Scribe::step(char label, const std::string& expression, const std::string& right,
                         const Slip& slip, const Rest& rest) {
  std::string result = draws_.uniform() < slip_ ? slip(right, draws_) : right;
  const double style = draws_.uniform();
  text_ += label;
  if (style < verbose_share_) {
    text_ += expression + "=" + result;
    const int num_rechecks = draws_.below(3) == 0 ? 2 : 1;
    for (int i = 0; i < num_rechecks; ++i) recheck(expression, right, result);
    text_ += ",now " + rest(result);
  } else if (style < verbose_share_ + short_share_) {
    text_ += expression + "=" + result;
  } else {
    text_ += result;
  }
  if (free_wording_) text_ += kFreeWords[draws_.below(std::size(kFreeWords))];
  text_ += ';';
  return result;
}

std::string Scribe::finish(std::string_view answer) {
  text_ += '#';
  text_ += answer;
  text_ += '.';
  return text_;
}

std::string slip_character(const std::string& right, std::string_view alphabet, Draws& draws) {
  TT_CHECK(!right.empty() && alphabet.size() > 1);
  std::string wrong = right;
  char& place = wrong[draws.below(static_cast<uint32_t>(wrong.size()))];
  const char before = place;
  while (place == before) place = alphabet[draws.below(static_cast<uint32_t>(alphabet.size()))];
  return wrong;
}

std::string slip_number(const std::string& right, Draws& draws) {
  std::string wrong = right;
  while (wrong == right || (wrong.size() > 1 && wrong[0] == '0'))
    wrong = slip_character(right, "0123456789", draws);
  return wrong;
}

std::string slip_choice(const std::string& right, const std::vector<std::string>& choices, Draws& draws) {
  TT_CHECK(choices.size() > 1, "a slip to another of {} choices", choices.size());
  for (;;) {
    const std::string& choice = choices[draws.below(static_cast<uint32_t>(choices.size()))];
    if (choice != right) return choice;
  }
}

size_t max_step_length(size_t expression, size_t result, size_t rest) {
  const size_t recheck = expression + 2 * result + 9;  // "?e=r no,so r"
  return 1 + expression + 1 + result + 2 * recheck + 5 + rest + 1;
}

}  // namespace trimtab
