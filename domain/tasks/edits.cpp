// Copying with edits: "copy bqzka: 2=x 4=m=" asks for bqzka with x for its second letter and m for its fourth. Every letter of the answer can
// be had from the prompt alone, so all may be filled in at once; there are no worked steps, a reply is the answer. Tier: number of letters.
#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr std::string_view kPrefix = "copy ";
constexpr int kFewestLetters = 4, kMostLetters = 16, kMostEdits = 3;

char letter(Draws& draws) { return static_cast<char>('a' + draws.below(26)); }
char other_letter(char letter, Draws& draws) { return static_cast<char>('a' + (letter - 'a' + 1 + static_cast<int>(draws.below(25))) % 26); }

std::string draw_edits(Draws& draws, int num_letters, int num_edits) {
  std::string text;
  for (int i = 0; i < num_letters; ++i) text += letter(draws);
  std::string prompt = std::string(kPrefix) + text + ":";
  for (int at = 0, left = num_edits; at < num_letters; ++at) {   // any choice of places alike
    if (static_cast<int>(draws.below(static_cast<uint32_t>(num_letters - at))) >= left) continue;
    prompt += fmt::format(" {}={}", at + 1, other_letter(text[static_cast<size_t>(at)], draws));
    --left;
  }
  return prompt + "=";
}

struct EditsOptions : SuiteOptions {
  EditsOptions() { tiers = {4, 8, 12}; }
  void describe(Fields& f) { describe_common(f, kFewestLetters, kMostLetters); }
};

class Edits final : public Suite {
 public:
  using Options = EditsOptions;
  explicit Edits(const Options& options) : Suite("edits", options, kFewestLetters) {}

  std::string alphabet() const override { return sorted_alphabet("abcdefghijklmnopqrstuvwxyz0123456789 :=#.;"); }
  size_t max_prompt_length() const override { return kPrefix.size() + num_letters() + 1 + kMostEdits * std::string_view(" 16=x").size() + 1; }
  size_t max_reply_length() const override { return num_letters() + 2; }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    const int num_edits = 1 + static_cast<int>(draws.below(kMostEdits));
    return draw_edits(draws, tier, num_edits);
  }
  std::string solve(std::string_view prompt) const override {
    const size_t colon = prompt.find(':');
    std::string text(prompt.substr(kPrefix.size(), colon - kPrefix.size()));
    for (size_t at = prompt.find(' ', colon); at != std::string_view::npos; at = prompt.find(' ', at + 1)) {
      const size_t equals = prompt.find('=', at);
      text.at(std::stoul(std::string(prompt.substr(at + 1, equals - at - 1))) - 1) = prompt.at(equals + 1);
    }
    return text;
  }
  std::string work(std::string_view prompt, Scribe&) const override { return solve(prompt); }
  // One edit of three letters.
  Example fact(Draws& draws) const override {
    std::string prompt = draw_edits(draws, 3, 1), edited = solve(prompt);
    return {std::move(prompt), edited + ";", 0, edited.size()};
  }

 private:
  size_t num_letters() const { return static_cast<size_t>(highest_tier()); }
};

TT_REGISTER(SuiteEntry, edits, (suite_entry<Edits>("edits", "a text copied with letters replaced, without worked steps")));

}  // namespace
}  // namespace trimtab
