// Sorting by selection: "sort 7 3 9 1=". Each step names the smallest of what is not yet in place and swaps
// it there; verbose text writes the list after the swap. Digits go by value, words by the alphabet. Tier:
// number of items.
#include <algorithm>

#include "core/text.h"
#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr std::string_view kPrefix = "sort ";
const std::vector<std::string> kDigitItems = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
const std::vector<std::string> kWordItems = {"ant", "apple", "arm",  "bat",  "bear", "bee", "cat", "cow",
                                             "cup", "dog",   "door", "duck", "ear",  "egg", "elk", "fan",
                                             "fig", "fox",   "goat", "gold", "hat",  "hen", "ice", "ink"};

std::vector<std::string> parse(std::string_view prompt) {
  return split(prompt.substr(kPrefix.size(), prompt.size() - kPrefix.size() - 1), ' ');
}

struct SortingOptions : SuiteOptions {
  std::string items = "digits";
  SortingOptions() { tiers = {3, 4, 5, 6}; }
  void describe(Fields& f) {
    describe_common(f, 2, 9);
    f.choice("items", items, {"digits", "words", "both"}, "what is sorted; all items of a list differ");
  }
};

class Sorting final : public Suite {
 public:
  using Options = SortingOptions;
  explicit Sorting(const Options& options) : Suite("sorting", options, 2), items_(options.items) {}

  std::string alphabet() const override {
    std::string out = "sort 0123456789abcdefgh" + std::string(kCorpusCharacters);  // labels run to h
    if (items_ != "digits") out += join(kWordItems, "");
    return sorted_alphabet(out);
  }
  size_t max_prompt_length() const override { return kPrefix.size() + max_list() + 1; }
  size_t max_reply_length() const override {
    return static_cast<size_t>(highest_tier()) * max_step_length(max_list(), 5, max_list()) + max_list() + 2;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    const bool words = items_ == "both" ? draws.below(2) == 0 : items_ == "words";
    std::vector<std::string> pool = words ? kWordItems : kDigitItems;
    for (int i = 0; i < tier; ++i) {
      const auto left = static_cast<uint32_t>(pool.size()) - static_cast<uint32_t>(i);
      std::swap(pool[static_cast<size_t>(i)], pool[static_cast<size_t>(i) + draws.below(left)]);
    }
    pool.resize(static_cast<size_t>(tier));
    return std::string(kPrefix) + join(pool, " ") + "=";
  }
  std::string solve(std::string_view prompt) const override {
    std::vector<std::string> items = parse(prompt);
    std::sort(items.begin(), items.end());
    return join(items, " ");
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    std::vector<std::string> items = parse(prompt);
    const auto swapped = [&](size_t place, const std::string& item) {
      std::vector<std::string> out = items;
      std::swap(out[place], *std::find(out.begin() + static_cast<std::ptrdiff_t>(place), out.end(), item));
      return out;
    };
    for (size_t i = 0; i + 1 < items.size(); ++i) {
      const std::vector<std::string> left(items.begin() + static_cast<std::ptrdiff_t>(i), items.end());
      const std::string item = scribe.step(
          letter_label(static_cast<int>(i)), join(left, " "), *std::min_element(left.begin(), left.end()),
          [&](const std::string& right, Draws& draws) { return slip_choice(right, left, draws); },
          [&](const std::string& result) { return join(swapped(i, result), " "); });
      items = swapped(i, item);
    }
    return join(items, " ");
  }
  Example fact(Draws& draws) const override {
    std::string prompt = draw_prompt(draws, 2);
    const std::vector<std::string> items = parse(prompt);
    const std::string& least = *std::min_element(items.begin(), items.end());
    return {join(items, " ") + "=", least + ";", 0, least.size()};
  }

 private:
  size_t max_list() const {
    const size_t item = items_ == "digits" ? 1 : 5;
    return static_cast<size_t>(highest_tier()) * (item + 1) - 1;
  }
  std::string items_;
};

TT_REGISTER(SuiteEntry, sorting,
            (suite_entry<Sorting>("sorting", "digits or words sorted by selection, swap by swap")));

}  // namespace
}  // namespace trimtab
