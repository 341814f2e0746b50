// Prompts of worked examples of another suite, then its question: "prompt reply newline" k times, then the
// prompt. The examples are clean replies to training problems, so that a held-out question brings nothing
// held-out but itself; the split of a prompt is the split of its question. Tier: that of the suite inside,
// alike in all examples of a prompt.
#include "core/text.h"
#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

struct FewShotOptions {
  int64_t shots = 4;
  void describe(Fields& f) {
    f.integer("shots", shots, {.low = 1, .high = 64, .doc = "worked examples before the question"});
  }
};

std::string_view question_of(std::string_view prompt) {
  return prompt.substr(prompt.rfind('\n') + 1);  // npos + 1 is 0
}

}  // namespace

class FewShot final : public Suite {
 public:
  FewShot(int64_t shots, std::unique_ptr<Suite> inner)
      : Suite("few_shot", inner->options(), inner->lowest_tier_), shots_(shots), inner_(std::move(inner)) {}

  Split split_of(std::string_view prompt) const override { return inner_->split_of(question_of(prompt)); }
  std::string alphabet() const override { return sorted_alphabet(inner_->alphabet() + "\n"); }
  size_t max_prompt_length() const override {
    const size_t question = inner_->max_prompt_length();
    return static_cast<size_t>(shots_) * (question + inner_->max_reply_length() + 1) + question;
  }
  size_t max_reply_length() const override { return inner_->max_reply_length(); }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    const std::string question = inner_->draw_prompt(draws, tier);
    const uint64_t seed = (uint64_t{draws.bits()} << 32) | draws.bits();
    std::string prompt;
    uint64_t index = 0;
    for (int64_t shot = 0; shot < shots_; ++index) {
      TT_CHECK_LT(index, uint64_t{100000});
      const Problem example = inner_->problem_of_tier(seed, index, Split::kTrain, tier);
      if (example.prompt == question) continue;  // its answer would stand in the prompt
      prompt += example.prompt + inner_->clean_reply(example, {.seed = seed, .index = index}) + "\n";
      ++shot;
    }
    return prompt + question;
  }
  std::string solve(std::string_view prompt) const override { return inner_->solve(question_of(prompt)); }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    return inner_->work(question_of(prompt), scribe);
  }
  Example fact(Draws& draws) const override { return inner_->fact(draws); }

 private:
  int64_t shots_;
  std::unique_ptr<Suite> inner_;
};

namespace {

FewShotOptions read_options(const Config& config) {
  FewShotOptions options;
  config.read(options, {"type", "suite"});
  if (!config.has("suite"))
    config.fail("suite", "missing; name the suite of the examples: {type: chained_arithmetic}");
  if (config.text("suite.type", "") == "few_shot") config.fail("suite.type", "few_shot does not nest");
  return options;
}

TT_REGISTER(
    SuiteEntry, few_shot,
    {.name = "few_shot",
     .doc = "worked examples of another suite in the prompt, then its question",
     .make = [](const Config& config) -> std::unique_ptr<Suite> {
       const FewShotOptions options = read_options(config);
       return std::make_unique<FewShot>(options.shots, make_suite(config.at("suite")));
     },
     .help =
         [] {
           std::vector<FieldLine> lines = help_of<FewShotOptions>();
           lines.push_back({"suite", "block", "", "", "", "the suite inside, with its `type` and keys"});
           return lines;
         },
     .resolved =
         [](const Config& config) {
           const Config inner = config.at("suite");
           const std::string type = inner.text("type", "");
           const auto& entry = Registry<SuiteEntry>::instance().get(type, "suite");
           return yaml_of(read_options(config)) + "\nsuite:\n" +
                  indented("type: " + type + "\n" + entry.resolved(inner));
         }});

}  // namespace
}  // namespace trimtab
