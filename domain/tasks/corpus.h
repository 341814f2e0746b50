// How worked replies are written: the styles, slips and re-checks that every suite's corpus shares.
//
// A step is a label, an expression and its result, in one of three styles:
//
//   verbose  a6+4=0?6+4=0 ok,now 0b*7c-4;     restates what is left after one or two re-checks
//   short    a6+4=0;
//   terse    a0;
//
// With free wording every step is short and goes on with one of three words that nothing in the problem decides, as in text
// that people write: "a6+4=0so;b0*7=0ok;". No model can foresee them, and no verifier asks for them.
//
// A result slips with a given probability, and each re-check then repairs it with another ("?6+4=3 no,so 0");
// a slip that survives is carried on faithfully. So verbose text is more accurate per step, and longer: a
// model trained on it has something to unlearn and something to learn.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/random.h"

namespace trimtab {

struct CorpusOptions {
  double slip = 0.15, repair = 0.3, verbose = 0.85;
  bool free_wording = false;
  void describe(Fields& f);
  // The chance that no slip survives in a text of so many steps. Re-checks of a verbose step: 1, 1 or 2
  // alike.
  double clean_probability(int num_steps) const;
};

// Words of the verbose style, for alphabets.
inline constexpr std::string_view kCorpusCharacters = "=;?#., oknwso";

class Scribe {
 public:
  Scribe(const CorpusOptions& options, Draws draws);

  using Slip = std::function<std::string(const std::string& right, Draws& draws)>;
  using Rest = std::function<std::string(const std::string& result)>;
  // Writes one step whose right result is `right`; `slip` gives a wrong one, `rest` what is left after a
  // result. Returns the result that the text goes on with.
  std::string step(char label, const std::string& expression, const std::string& right, const Slip& slip,
                   const Rest& rest);
  std::string finish(std::string_view answer);  // the whole reply

 private:
  void recheck(const std::string& expression, const std::string& right, std::string& result);
  double slip_, repair_;
  bool free_wording_;
  Draws draws_;
  double verbose_share_, short_share_;  // of this text's steps
  std::string text_;
};

// Slips. `slip_character` replaces one character of `right` by another of `alphabet`; `slip_number` one
// digit, never making a leading zero; `slip_choice` takes another of the choices (at least two, all
// different).
std::string slip_character(const std::string& right, std::string_view alphabet, Draws& draws);
std::string slip_number(const std::string& right, Draws& draws);
std::string slip_choice(const std::string& right, const std::vector<std::string>& choices, Draws& draws);

inline char letter_label(int step) { return static_cast<char>('a' + step % 26); }
// An upper bound of one step's length.
size_t max_step_length(size_t expression, size_t result, size_t rest);

}  // namespace trimtab
