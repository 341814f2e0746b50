// Several suites in one model's traffic: a letter says whose problem follows, "A" for the first. The split of a prompt is the split of its
// problem. Tier: the number of the suite, from 1; within a suite all of its tiers alike.
#include "core/text.h"
#include "domain/tasks/suite.h"

namespace trimtab {

class Mixed final : public Suite {
 public:
  static constexpr int kMostSuites = 16;   // letters A to P

  Mixed(SuiteOptions options, std::vector<std::unique_ptr<Suite>> suites) : Suite("mixed", std::move(options), 1), suites_(std::move(suites)) {}

  Split split_of(std::string_view prompt) const override { return suite_of(prompt).split_of(prompt.substr(1)); }
  std::string alphabet() const override {
    std::string out;
    for (size_t i = 0; i < suites_.size(); ++i) out += letter(i) + suites_[i]->alphabet();
    return sorted_alphabet(out);
  }
  size_t max_prompt_length() const override {
    size_t most = 0;
    for (const auto& s : suites_) most = std::max(most, 1 + s->max_prompt_length());
    return most;
  }
  size_t max_reply_length() const override {
    size_t most = 0;
    for (const auto& s : suites_) most = std::max(most, s->max_reply_length());
    return most;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    const Suite& suite = *suites_[tier - 1];
    const std::vector<int64_t>& tiers = suite.options().tiers;
    return letter(tier - 1) + suite.draw_prompt(draws, static_cast<int>(tiers[draws.below(static_cast<uint32_t>(tiers.size()))]));
  }
  std::string solve(std::string_view prompt) const override { return suite_of(prompt).solve(prompt.substr(1)); }
  std::string work(std::string_view prompt, Scribe& scribe) const override { return suite_of(prompt).work(prompt.substr(1), scribe); }
  Example fact(Draws& draws) const override {
    const size_t i = draws.below(static_cast<uint32_t>(suites_.size()));
    Example out = suites_[i]->fact(draws);
    out.prompt = letter(i) + out.prompt;
    return out;
  }

 private:
  static std::string letter(size_t index) { return std::string(1, static_cast<char>('A' + index)); }
  const Suite& suite_of(std::string_view prompt) const {
    const size_t index = prompt.empty() ? suites_.size() : static_cast<size_t>(prompt[0] - 'A');
    if (index >= suites_.size()) throw DataError(fmt::format("the prompt '{}' does not begin with a letter from A to {}: whose problem is it?", prompt, letter(suites_.size() - 1)));
    return *suites_[index];
  }

  std::vector<std::unique_ptr<Suite>> suites_;
};

namespace {

struct MixedOptions : SuiteOptions {
  void describe(Fields& f) { describe_common(f, 1, Mixed::kMostSuites); }
};

// The suites in the list, and `tiers` as all of them unless it says otherwise.
MixedOptions read_options(const Config& config) {
  const size_t count = config.list("suites").size();
  if (count < 2 || count > Mixed::kMostSuites) config.fail("suites", fmt::format("{} of them: list 2 to {}, each with its `type` and keys", count, Mixed::kMostSuites));
  MixedOptions options;
  for (size_t i = 1; i <= count; ++i) options.tiers.push_back(static_cast<int64_t>(i));
  config.read(options, {"type", "suites"});
  for (const int64_t tier : options.tiers)
    if (tier > static_cast<int64_t>(count)) config.fail("tiers", fmt::format("{}, but there are {} suites", tier, count));
  for (const Config& suite : config.list("suites"))
    if (suite.text("type", "") == "mixed") config.fail("suites", "mixed does not nest");
  return options;
}

TT_REGISTER(SuiteEntry, mixed,
            {.name = "mixed",
             .doc = "several suites, a letter in front says which",
             .make = [](const Config& config) -> std::unique_ptr<Suite> {
               std::vector<std::unique_ptr<Suite>> suites;
               const MixedOptions options = read_options(config);
               for (const Config& suite : config.list("suites")) suites.push_back(make_suite(suite));
               return std::make_unique<Mixed>(options, std::move(suites));
             },
             .help =
                 [] {
                   std::vector<FieldLine> lines = help_of<MixedOptions>();
                   lines.push_back({"suites", "list of blocks", "", "", "", "the suites, each with its `type` and keys"});
                   return lines;
                 },
             .resolved =
                 [](const Config& config) {
                   std::string out = yaml_of(read_options(config)) + "\nsuites:\n";
                   for (const Config& suite : config.list("suites")) {
                     const std::string type = suite.text("type", "");
                     const std::string block = indented("type: " + type + "\n" + Registry<SuiteEntry>::instance().get(type, "suite").resolved(suite));
                     out += "  -" + indented(block).substr(3);
                   }
                   return out;
                 }});

}  // namespace
}  // namespace trimtab
